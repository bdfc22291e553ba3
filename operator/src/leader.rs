//! Tasks of the leader: [`lease`] elects the leader, [`status_writer`] writes the status of profiles and events.

pub mod lease;
pub mod status_writer;
