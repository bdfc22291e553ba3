//! Guards of the node: forwarded traffic to the service addresses never leaves the node. Each guard suffices alone, and none
//! has a list of pods. Traffic of the node's own processes passes.
//!
//! The CNI plugin adds the first two guards, [`rules`] and [`nft`]. The third one, [`uplink`], depends on the kernel.

pub mod nft;
pub mod repair;
pub mod rules;
pub mod uplink;

use anyhow::{Context as _, Result};

use crate::counters::Repairs;
use crate::netns::Netns;

/// Adds the routing rules (guard 1), then the nftables table (guard 2), where they are missing or changed in a namespace.
/// Idempotent.
///
/// # Errors
/// If the kernel rejects a part. The message names the guard.
pub async fn ensure(host: &Netns) -> Result<Repairs> {
    // A failure of one guard does not keep the other one from being added.
    let rules = rules::ensure(host).await.context("cannot add the routing rules that guard the metadata services");
    let tables = nft::ensure(host).context("cannot add the nftables table that guards the metadata services");
    Ok(Repairs { rules: rules?, tables: tables? })
}

/// Removes the first two guards from a namespace.
///
/// # Errors
/// If the kernel rejects a removal. The message names the guard. A failure of one guard does not keep the other one from being
/// removed.
pub async fn remove(host: &Netns) -> Result<()> {
    let table = nft::remove(host).context("cannot remove the nftables table that guards the metadata services");
    rules::remove(host).await.context("cannot remove the routing rules that guard the metadata services")?;
    table
}
