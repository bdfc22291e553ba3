//! Tasks of the leader: [`lease`] elects the leader, [`status_writer`] writes the status of profiles and events,
//! [`node_guard_writer`] writes the condition of nodes, [`startup_taint`] removes the taint of new nodes, [`node_findings`]
//! publishes what nodes lack.

pub mod lease;
pub mod node_findings;
pub mod node_guard_writer;
mod node_patch;
pub mod startup_taint;
pub mod status_writer;
