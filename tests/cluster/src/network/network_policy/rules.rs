//! Compiles the NetworkPolicies of a cluster into the nftables rules of one node.
//!
//! As the API defines, a selected pod can receive or send only what one of its policies allows. Other pods are not
//! restricted. Replies, traffic of a pod to itself, and traffic between a pod and its own node are always allowed.
//! Unlike in production network plugins, a new pod is not restricted until its status has its addresses.
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

/// Name of the nftables table.
pub const TABLE_NAME: &str = "network-policies";

/// The objects that the rules depend on.
pub struct PolicyObjects<'a> {
    /// Every policy.
    pub policies: Vec<&'a NetworkPolicy>,
    /// Every pod.
    pub pods: Vec<&'a Pod>,
    /// Every namespace.
    pub namespaces: Vec<&'a Namespace>,
}

/// The direction of traffic, from the perspective of the selected pod.
#[derive(Clone, Copy)]
enum PolicyDirection {
    Ingress,
    Egress,
}

/// The other end of allowed traffic.
enum RulePeer<'a> {
    Any,
    Block(&'a IPBlock),
    Pod(&'a Pod),
}

impl PolicyObjects<'_> {
    /// Returns the node's rules as an `nft` script that replaces the previous table in one transaction.
    ///
    /// # Errors
    /// If a selector or an address is not valid.
    pub fn rules(&self, node: &str) -> Result<String> {
        let on_node = |pod: &&&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        let (mut jumps, mut chains) = (String::new(), String::new());
        for pod in self.pods.iter().filter(on_node) {
            for (direction, side) in [(PolicyDirection::Ingress, "daddr"), (PolicyDirection::Egress, "saddr")] {
                let policies = self.policies_of(pod, direction)?;
                let addresses = addresses(pod)?;
                let Some(first) = addresses.first().filter(|_| !policies.is_empty()) else { continue };
                let chain = format!("{}-{}", direction.chain_prefix(), first.to_string().replace([':', '.'], "-"));
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

    /// Returns the policies that select a pod for a direction.
    fn policies_of(&self, pod: &Pod, direction: PolicyDirection) -> Result<Vec<&NetworkPolicy>> {
        let mut all = Vec::new();
        for policy in &self.policies {
            let Some(spec) = &policy.spec else { continue };
            // The API server sets policyTypes if they are not given.
            let has_type = spec.policy_types.iter().flatten().any(|kind| kind == direction.policy_type());
            let same_namespace = policy.namespace() == pod.namespace();
            if has_type && same_namespace && selects(spec.pod_selector.as_ref(), pod)? {
                all.push(*policy);
            }
        }
        Ok(all)
    }

    /// Returns the matches of traffic that a policy allows, without the verdict.
    fn allowed(&self, policy: &NetworkPolicy, pod: &Pod, direction: PolicyDirection) -> Result<Vec<String>> {
        let spec = policy.spec.clone().unwrap_or_default();
        let rules: Vec<_> = match direction {
            PolicyDirection::Ingress => {
                spec.ingress.into_iter().flatten().map(|rule| (rule.from, rule.ports)).collect()
            }
            PolicyDirection::Egress => spec.egress.into_iter().flatten().map(|rule| (rule.to, rule.ports)).collect(),
        };
        let mut lines = Vec::new();
        for (peers, ports) in rules {
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            for peer in self.peers(policy, &peers)? {
                let named_ports_of = match (direction, &peer) {
                    (PolicyDirection::Ingress, _) => Some(pod),
                    (PolicyDirection::Egress, RulePeer::Pod(other)) => Some(*other),
                    (PolicyDirection::Egress, RulePeer::Any | RulePeer::Block(_)) => None,
                };
                let ports = port_matches(&ports, named_ports_of);
                for address in direction.matches(&peer)? {
                    lines.extend(ports.iter().map(|port| format!("{address}{port}")));
                }
            }
        }
        Ok(lines)
    }

    /// Resolves the peers of a rule. An empty list means any peer.
    fn peers<'a>(&'a self, policy: &NetworkPolicy, peers: &'a [NetworkPolicyPeer]) -> Result<Vec<RulePeer<'a>>> {
        if peers.is_empty() {
            return Ok(vec![RulePeer::Any]);
        }
        let mut all = Vec::new();
        for peer in peers {
            all.extend(peer.ip_block.as_ref().map(RulePeer::Block));
            if peer.ip_block.is_some() {
                continue;
            }
            for pod in &self.pods {
                let namespace = pod.namespace();
                let namespace_selected = match &peer.namespace_selector {
                    None => namespace == policy.namespace(),
                    Some(_) => {
                        let object = self.namespaces.iter().find(|object| object.metadata.name == namespace);
                        object.map_or(Ok(false), |object| selects(peer.namespace_selector.as_ref(), *object))?
                    }
                };
                if namespace_selected && selects(peer.pod_selector.as_ref(), *pod)? {
                    all.push(RulePeer::Pod(pod));
                }
            }
        }
        Ok(all)
    }
}

impl PolicyDirection {
    /// The prefix of chain names.
    fn chain_prefix(self) -> &'static str {
        match self {
            Self::Ingress => "to",
            Self::Egress => "from",
        }
    }

    /// The value in a policy's `policyTypes`.
    fn policy_type(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// Returns a match for each address of the peer.
    fn matches(self, peer: &RulePeer<'_>) -> Result<Vec<String>> {
        let side = match self {
            Self::Ingress => "saddr",
            Self::Egress => "daddr",
        };
        match peer {
            RulePeer::Any => Ok(vec![String::new()]),
            RulePeer::Pod(pod) => {
                Ok(addresses(pod)?.iter().map(|address| format!("{} {side} {address} ", family(*address))).collect())
            }
            RulePeer::Block(block) => {
                let address = block.cidr.split('/').next().unwrap_or_default();
                let family = family(address.parse().with_context(|| format!("{} is not a valid CIDR", block.cidr))?);
                let mut matches = format!("{family} {side} {} ", block.cidr);
                for except in block.except.iter().flatten() {
                    write!(matches, "{family} {side} != {except} ")?;
                }
                Ok(vec![matches])
            }
        }
    }
}

/// Returns a script that replaces the table. A forwarded packet jumps to the chains of both its pods.
fn table(chains: &str, jumps: &str) -> String {
    format!(
        "table inet {TABLE_NAME} {{}}
delete table inet {TABLE_NAME}
table inet {TABLE_NAME} {{
{chains}  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
{jumps}  }}
}}
"
    )
}

/// Returns matches for the ports of a rule. Port names are those of the destination pod's containers. An empty list means all
/// ports.
fn port_matches(ports: &[NetworkPolicyPort], destination: Option<&Pod>) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    let containers =
        destination.and_then(|pod| pod.spec.as_ref()).map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let container_ports = || containers.iter().flat_map(|container| container.ports.iter().flatten());
    let matches = ports.iter().flat_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let transport = protocol.to_lowercase();
        match (&port.port, port.end_port) {
            (None, _) => vec![format!("meta l4proto {transport} ")],
            (Some(IntOrString::Int(first)), Some(last)) => vec![format!("{transport} dport {first}-{last} ")],
            (Some(IntOrString::Int(number)), None) => vec![format!("{transport} dport {number} ")],
            (Some(IntOrString::String(name)), _) => container_ports()
                .filter(|port| port.name.as_deref() == Some(name))
                .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|port| format!("{transport} dport {} ", port.container_port))
                .collect(),
        }
    });
    matches.collect()
}

/// True if a selector matches an object. `None` matches every object.
fn selects<K: kube::ResourceExt>(selector: Option<&LabelSelector>, object: &K) -> Result<bool> {
    let selector =
        Selector::try_from(selector.cloned().unwrap_or_default()).context("a label selector is not valid")?;
    Ok(selector.matches(object.labels()))
}

/// Returns a pod's addresses. Pods with `hostNetwork` and terminated pods have none.
fn addresses(pod: &Pod) -> Result<Vec<IpAddr>> {
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let status = pod.status.as_ref().filter(|_| !host_network);
    let terminated = |phase: Option<&str>| matches!(phase, Some("Succeeded" | "Failed"));
    let status = status.filter(|status| !terminated(status.phase.as_deref()));
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    all.map(|address| {
        address.ip.parse().with_context(|| format!("{} of pod {} is not a valid address", address.ip, pod.name_any()))
    })
    .collect()
}

fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}
