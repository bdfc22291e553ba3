//! Faults of the node's network rules. The link daemon adds podmeta's rules again. kube-proxy and the program that enforces
//! NetworkPolicies add theirs when they are restarted.

use anyhow::Result;

use super::faults::FaultyNode;

const FLUSH_NFTABLES: &str = "nft flush ruleset";

/// Removes all rules but those of priority 0, and adds the kernel's defaults.
const FLUSH_ROUTING_RULES: &str = "
printf '%s\\n' 'rule flush' 'rule add pref 32766 lookup main' 'rule add pref 32767 lookup default' | ip -4 -batch -
printf '%s\\n' 'rule flush' 'rule add pref 32766 lookup main' | ip -6 -batch -";

impl FaultyNode<'_> {
    pub(super) async fn flush_nftables(&self) -> Result<()> {
        self.node.sh(FLUSH_NFTABLES).await.map(drop)
    }

    pub(super) async fn flush_routing_rules(&self) -> Result<()> {
        self.node.sh(FLUSH_ROUTING_RULES).await.map(drop)
    }

    pub(super) async fn flush_all_rules(&self) -> Result<()> {
        self.node.sh(&format!("{FLUSH_NFTABLES}\n{FLUSH_ROUTING_RULES}")).await.map(drop)
    }
}
