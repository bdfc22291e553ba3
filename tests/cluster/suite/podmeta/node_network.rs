//! The configuration of a node's network plugin, which tests change and restore.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kit::{TestNode, eventually};

/// Directory of CNI configurations on a node.
const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";

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
            let config = node.sh(&format!("cat {CNI_CONFIG_DIR}/00-podmeta.conflist")).await?;
            ensure!(ipam(&config)? == expected, "{config}");
            Ok(())
        })
        .await
    }
}
