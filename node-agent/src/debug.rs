//! The debug socket: a Unix socket through which root on the node can query pods. It is off by default.
//!
//! The first line of a connection is `NAMESPACE/NAME DIALECT` or `UID DIALECT`, then HTTP follows.

mod query;
mod server;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};
use podmeta_metadata::dialect::Dialect;

pub use query::{QueryArgs, query};
pub use server::{bind, serve};

/// Default path of the debug socket.
pub const DEFAULT_PATH: &str = "/run/podmeta/serve/debug.sock";

fn parse_dialect(name: &str) -> Result<Dialect> {
    Dialect::from_name(name).with_context(|| format!("{name:?} is not a dialect: use ec2 or ecs"))
}
