//! Faults of the node's CNI configurations. The link daemon writes podmeta's one again.

use anyhow::Result;

use super::super::node_network::PODMETA_CONFLIST;
use super::faults::FaultyNode;

impl FaultyNode<'_> {
    pub(super) async fn delete_podmeta_conflist(&self) -> Result<()> {
        self.node.sh(&format!("rm -f {PODMETA_CONFLIST}")).await.map(drop)
    }

    /// A pod that starts before the link daemon has written the file again has no link.
    pub(super) async fn overwrite_podmeta_conflist(&self) -> Result<()> {
        let (file, _) = self.network.file();
        self.node.sh(&format!("cat {file} >{PODMETA_CONFLIST}")).await.map(drop)
    }

    /// Writes a file with other white space, and renames it.
    pub(super) async fn rewrite_network_conflist(&self) -> Result<()> {
        let (file, content) = self.network.file();
        let script = format!("printf '%s\\n\\n' '{content}' >{file}.new\nmv {file}.new {file}");
        self.node.sh(&script).await.map(drop)
    }

    /// Truncates the file in the middle, as a program does that is killed while it writes.
    pub(super) async fn break_network_conflist(&self) -> Result<()> {
        let (file, _) = self.network.file();
        self.node.sh(&format!("truncate --size=40 {file}")).await.map(drop)
    }

    pub(super) async fn restore_network_conflist(&self) -> Result<()> {
        let (file, content) = self.network.file();
        self.node.sh(&format!("printf %s '{content}' >{file}.new\nmv {file}.new {file}")).await.map(drop)
    }
}
