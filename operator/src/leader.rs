//! Tasks of the leader: [`lease`] elects the leader, [`status_writer`] writes the status of profiles and events,
//! [`node_findings`] publishes what nodes lack.

pub mod lease;
pub mod node_findings;
pub mod status_writer;
