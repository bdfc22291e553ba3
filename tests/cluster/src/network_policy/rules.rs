//! What the NetworkPolicies of a cluster come to on one node, as rules of nftables.
//!
//! As the API says it: a pod that a policy selects gets, and sends, what one of the policies that select it allows; every
//! other pod is free. Replies pass, and so does what a pod sends to itself and what goes between a pod and its own node. But
//! a new pod is free until its status has its addresses.
//! Source: <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};

/// The table that the rules are in.
pub const TABLE: &str = "network-policies";

/// What is known of a cluster.
pub struct Known<'a> {
    /// Every policy.
    pub policies: Vec<&'a NetworkPolicy>,
    /// Every pod.
    pub pods: Vec<&'a Pod>,
    /// Every namespace.
    pub namespaces: Vec<&'a Namespace>,
}

#[derive(Clone, Copy)]
enum Direction {
    Ingress,
    Egress,
}

/// Who may be at the other end.
enum Peer<'a> {
    Anyone,
    Block(&'a IPBlock),
    Pod(&'a Pod),
}

impl Known<'_> {
    /// The node's rules, as `nft` reads them: they replace those of before, all at once.
    ///
    /// # Errors
    /// If a policy has a selector or an address that is none, or a pod an address that is none.
    pub fn rules(&self, node: &str) -> Result<String> {
        let here = |pod: &&&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        let (mut jumps, mut chains) = (String::new(), String::new());
        for pod in self.pods.iter().filter(here) {
            for (direction, side) in [(Direction::Ingress, "daddr"), (Direction::Egress, "saddr")] {
                let policies = self.policies_of(pod, direction)?;
                let addresses = addresses(pod)?;
                let Some(first) = addresses.first().filter(|_| !policies.is_empty()) else { continue };
                let chain = format!("{}-{}", direction.name(), first.to_string().replace([':', '.'], "-"));
                for address in &addresses {
                    let family = family(*address);
                    writeln!(jumps, "    {family} saddr {address} {family} daddr {address} accept")?;
                    writeln!(jumps, "    {family} {side} {address} jump {chain}")?;
                }
                let mut lines = Vec::new();
                for policy in policies {
                    lines.extend(self.allowed(policy, pod, direction)?);
                }
                lines.sort();
                lines.dedup();
                let lines: String = lines.iter().map(|line| format!("    {line}return\n")).collect();
                let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
                writeln!(chains, "  # {namespace}/{name}\n  chain {chain} {{\n{lines}    drop\n  }}")?;
            }
        }
        Ok(table(&chains, &jumps))
    }

    /// The policies that a pod is subject to.
    fn policies_of(&self, pod: &Pod, direction: Direction) -> Result<Vec<&NetworkPolicy>> {
        let mut all = Vec::new();
        for policy in &self.policies {
            let Some(spec) = &policy.spec else { continue };
            // As the API server sets them where they are not given.
            let directed = spec.policy_types.iter().flatten().any(|kind| kind == direction.kind());
            let beside = policy.namespace() == pod.namespace();
            if directed && beside && selects(spec.pod_selector.as_ref(), pod)? {
                all.push(*policy);
            }
        }
        Ok(all)
    }

    /// What a policy lets a pod get or send: the beginnings of rules.
    fn allowed(&self, policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> Result<Vec<String>> {
        let spec = policy.spec.clone().unwrap_or_default();
        let rules: Vec<_> = match direction {
            Direction::Ingress => spec.ingress.into_iter().flatten().map(|rule| (rule.from, rule.ports)).collect(),
            Direction::Egress => spec.egress.into_iter().flatten().map(|rule| (rule.to, rule.ports)).collect(),
        };
        let mut lines = Vec::new();
        for (peers, ports) in rules {
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            for peer in self.peers(policy, &peers)? {
                let named = match (direction, &peer) {
                    (Direction::Ingress, _) => Some(pod),
                    (Direction::Egress, Peer::Pod(other)) => Some(*other),
                    (Direction::Egress, Peer::Anyone | Peer::Block(_)) => None,
                };
                let ports = transports(&ports, named);
                for address in direction.matches(&peer)? {
                    lines.extend(ports.iter().map(|port| format!("{address}{port}")));
                }
            }
        }
        Ok(lines)
    }

    /// Who a rule is about. No peers are everyone.
    fn peers<'a>(&'a self, policy: &NetworkPolicy, peers: &'a [NetworkPolicyPeer]) -> Result<Vec<Peer<'a>>> {
        if peers.is_empty() {
            return Ok(vec![Peer::Anyone]);
        }
        let mut all = Vec::new();
        for peer in peers {
            all.extend(peer.ip_block.as_ref().map(Peer::Block));
            if peer.ip_block.is_some() {
                continue;
            }
            for pod in &self.pods {
                let namespace = pod.namespace();
                let beside = match &peer.namespace_selector {
                    None => namespace == policy.namespace(),
                    Some(_) => {
                        let own = self.namespaces.iter().find(|known| known.metadata.name == namespace);
                        own.map_or(Ok(false), |own| selects(peer.namespace_selector.as_ref(), *own))?
                    }
                };
                if beside && selects(peer.pod_selector.as_ref(), *pod)? {
                    all.push(Peer::Pod(pod));
                }
            }
        }
        Ok(all)
    }
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "to",
            Self::Egress => "from",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// Where the other end is in a packet: a match for each of its addresses.
    fn matches(self, peer: &Peer<'_>) -> Result<Vec<String>> {
        let side = match self {
            Self::Ingress => "saddr",
            Self::Egress => "daddr",
        };
        match peer {
            Peer::Anyone => Ok(vec![String::new()]),
            Peer::Pod(pod) => {
                Ok(addresses(pod)?.iter().map(|address| format!("{} {side} {address} ", family(*address))).collect())
            }
            Peer::Block(block) => {
                let address = block.cidr.split('/').next().unwrap_or_default();
                let family = family(address.parse().with_context(|| format!("{} is no block", block.cidr))?);
                let mut found = format!("{family} {side} {} ", block.cidr);
                for except in block.except.iter().flatten() {
                    write!(found, "{family} {side} != {except} ")?;
                }
                Ok(vec![found])
            }
        }
    }
}

/// The whole table, in place of the one of before: a packet that is forwarded jumps to the chains of both its ends.
fn table(chains: &str, jumps: &str) -> String {
    format!(
        "table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
{chains}  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
{jumps}  }}
}}
"
    )
}

/// Matches for the ports of a rule; a name is that of a container's port of the pod that is reached. No ports are all.
fn transports(ports: &[NetworkPolicyPort], named: Option<&Pod>) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    let containers = named.and_then(|pod| pod.spec.as_ref()).map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let known = || containers.iter().flat_map(|container| container.ports.iter().flatten());
    let each = ports.iter().flat_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let transport = protocol.to_lowercase();
        match (&port.port, port.end_port) {
            (None, _) => vec![format!("meta l4proto {transport} ")],
            (Some(IntOrString::Int(first)), Some(last)) => vec![format!("{transport} dport {first}-{last} ")],
            (Some(IntOrString::Int(number)), None) => vec![format!("{transport} dport {number} ")],
            (Some(IntOrString::String(name)), _) => known()
                .filter(|known| known.name.as_deref() == Some(name))
                .filter(|known| known.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|known| format!("{transport} dport {} ", known.container_port))
                .collect(),
        }
    });
    each.collect()
}

/// Whether a selector selects an object. None selects all.
fn selects<K: kube::ResourceExt>(selector: Option<&LabelSelector>, object: &K) -> Result<bool> {
    let selector = Selector::try_from(selector.cloned().unwrap_or_default()).context("a policy's selector is none")?;
    Ok(selector.matches(object.labels()))
}

/// A pod's own addresses. One that shares its node's has none, and neither has one that ended.
fn addresses(pod: &Pod) -> Result<Vec<IpAddr>> {
    let shared = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let status = pod.status.as_ref().filter(|_| !shared);
    let ended = |phase: Option<&str>| matches!(phase, Some("Succeeded" | "Failed"));
    let status = status.filter(|status| !ended(status.phase.as_deref()));
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    all.map(|own| own.ip.parse().with_context(|| format!("{} of pod {} is no address", own.ip, pod.name_any())))
        .collect()
}

fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}
