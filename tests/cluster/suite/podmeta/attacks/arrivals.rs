//! Packets of the attacker that arrived.

use anyhow::{Context as _, Result, ensure};

use super::Attack;

/// Numbers of announcements that arrived. The kernel does not count those of ARP.
#[derive(Debug)]
pub(super) struct Announcements {
    /// Router advertisements and neighbour advertisements by `eth0`.
    neighbour: [u64; 2],
    node: [u64; 2],
    /// IPv6 packets that the agent namespace dropped, because their source is not the address of a link.
    by_link: u64,
}

impl Announcements {
    pub(super) async fn read(attack: &Attack<'_>) -> Result<Self> {
        let file = "/proc/net/snmp6";
        let neighbour = attack.namespace.run(&attack.neighbour.name, &["cat", file]).await?;
        let node = attack.podmeta.cluster.node_by_name(&attack.node).sh(&format!("cat {file}")).await?;
        let of = |counts: &str, name: &str| {
            let line = counts.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("no {name} in {file}"))?.trim().parse::<u64>().map_err(anyhow::Error::from)
        };
        let both = |counts: &str| {
            anyhow::Ok([of(counts, "Icmp6InRouterAdvertisements")?, of(counts, "Icmp6InNeighborAdvertisements")?])
        };
        let by_link = dropped(attack, "ip6 saddr").await?;
        Ok(Self { neighbour: both(&neighbour)?, node: both(&node)?, by_link })
    }

    /// Checks that announcements of each kind arrived at the agent namespace and at the node, and at the neighbour if a bridge
    /// connects it to the attacker.
    pub(super) async fn check_arrived_since(&self, before: &Self, attack: &Attack<'_>) -> Result<()> {
        let arrived = |count: fn(&Self) -> u64| count(self) > count(before);
        ensure!(arrived(|count| count.by_link), "no announcement arrived by the link");
        let at_node = arrived(|count| count.node[0]) && arrived(|count| count.node[1]);
        ensure!(at_node, "no announcement arrived at the node");
        // Without a bridge, the node receives what a pod sends to all, and forwards none of it.
        let node = attack.podmeta.cluster.node_by_name(&attack.node);
        let has_bridge = !node.sh("ip -o link show type bridge").await?.is_empty();
        let at_neighbour = arrived(|count| count.neighbour[0]) && arrived(|count| count.neighbour[1]);
        ensure!(at_neighbour == has_bridge, "bridge: {has_bridge}; arrived at the neighbour: {at_neighbour}");
        Ok(())
    }
}

/// Returns how many packets a rule of the filter in the node's agent namespace has dropped: the first rule that contains
/// the text `rule`.
pub(super) async fn dropped(attack: &Attack<'_>, rule: &str) -> Result<u64> {
    let node = attack.podmeta.cluster.node_by_name(&attack.node);
    let rules = node.sh("ip netns exec podmeta nft list chain inet podmeta_agent arriving").await?;
    let line = rules.lines().find(|line| line.contains(rule));
    let count = line.and_then(|line| line.split("packets ").last()?.split(' ').next());
    Ok(count.with_context(|| format!("no count of {rule} in {rules}"))?.parse()?)
}
