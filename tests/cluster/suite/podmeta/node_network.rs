//! The configuration of a node's network plugin, which tests change and restore.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kit::{TestNode, eventually};

/// Directory of CNI configurations on a node.
const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";

/// podmeta's CNI configuration on a node.
pub(super) const PODMETA_CONFLIST: &str = "/etc/cni/net.d/00-podmeta.conflist";

/// The first network configuration of a node that is not podmeta's.
pub(super) struct NodeNetwork<'n> {
    node: &'n TestNode,
    file: String,
    /// Content of the file before the test.
    before: String,
}

impl<'n> NodeNetwork<'n> {
    /// Reads the configuration. A caller that writes it must call [`NodeNetwork::restore`] afterwards, also on errors.
    pub(super) async fn read(node: &'n TestNode) -> Result<Self> {
        let find = format!("ls {CNI_CONFIG_DIR}/*.conflist | grep -v /00-podmeta | head -n 1");
        let file = node.sh(&find).await?.trim().to_owned();
        let before = node.sh(&format!("cat {file}")).await?;
        Ok(Self { node, file, before })
    }

    /// Returns the configuration before the test.
    pub(super) fn config(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.before)?)
    }

    /// Returns the path of the file and its content before the test.
    pub(super) fn file(&self) -> (&str, &str) {
        (&self.file, &self.before)
    }

    /// Restricts the addresses of new pods to this number of each family.
    pub(super) async fn restrict_ranges(&self, addresses: u32) -> Result<()> {
        let mut config = self.config()?;
        let ranges = config.pointer_mut("/plugins/0/ipam/ranges").and_then(Value::as_array_mut);
        for range in ranges.context("the network configuration has no ranges")? {
            restrict(range.get_mut(0).context("a range is empty")?, addresses)?;
        }
        self.write(&config.to_string()).await
    }

    /// Restores the configuration.
    pub(super) async fn restore(&self) -> Result<()> {
        self.write(&self.before).await
    }

    /// Replaces the file, and waits until podmeta's configuration contains the new address management.
    pub(super) async fn write(&self, content: &str) -> Result<()> {
        let (node, file) = (self.node, &self.file);
        node.sh(&format!("printf %s '{content}' >{file}.new\nmv {file}.new {file}")).await?;
        let ipam = |config: &str| -> Result<Value> {
            let config: Value = serde_json::from_str(config)?;
            config.pointer("/plugins/0/ipam").cloned().context("no ipam")
        };
        let expected = ipam(content)?;
        eventually(Duration::from_secs(10), "podmeta's configuration has the new address management", async || {
            let config = node.sh(&format!("cat {PODMETA_CONFLIST}")).await?;
            ensure!(ipam(&config)? == expected, "{config}");
            Ok(())
        })
        .await
    }
}

/// Restricts a range of the plugin host-local to the last addresses of the subnet, or the last of 65,536 IPv6 addresses.
fn restrict(range: &mut Value, addresses: u32) -> Result<()> {
    let subnet = range["subnet"].as_str().context("a range has no subnet")?;
    let (network, length) = subnet.split_once('/').context("a subnet has no length")?;
    let (first, last) = if let Ok(network) = network.parse::<Ipv4Addr>() {
        let broadcast = u32::from(network) | u32::MAX.checked_shr(length.parse()?).unwrap_or(0);
        (Ipv4Addr::from(broadcast - addresses).to_string(), Ipv4Addr::from(broadcast - 1).to_string())
    } else {
        let last = u128::from(network.parse::<Ipv6Addr>()?) | 0xffff;
        (Ipv6Addr::from(last - u128::from(addresses) + 1).to_string(), Ipv6Addr::from(last).to_string())
    };
    range["rangeStart"] = first.into();
    range["rangeEnd"] = last.into();
    Ok(())
}
