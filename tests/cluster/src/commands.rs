//! The commands of the program `cluster`.

pub mod datapath;
pub mod down;
pub mod lock;
pub mod progress;
pub mod remove_node;
pub mod status;
pub mod up;
