//! What the NetworkPolicies of a cluster come to on one node, as rules of nftables.
//!
//! As the API says it: a pod that a policy selects gets, and sends, what one of the policies that select it allows; every
//! other pod is free. Replies pass, and so does what a pod sends to itself and what goes between a pod and its own node. But
//! a new pod is free until its status has its addresses.
//! Source: <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.

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
        let passes =
            "ct state established,related accept\n    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";
        let hook = "type filter hook forward priority filter; policy accept;";
        Ok(format!(
            "table inet {TABLE} {{}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{chains}  chain forward {{\n    {hook}\n    {passes}\n{jumps}  }}\n}}\n"
        ))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod in a namespace, on node `a`, with a port named `api`.
    fn pod(namespace: &str, name: &str, addresses: &[&str]) -> Value {
        let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [
                {"name": "api", "containerPort": 8443}, {"name": "api", "containerPort": 53, "protocol": "UDP"},
            ]}]},
            "status": {"phase": "Running", "podIPs": ips},
        })
    }

    fn policy(spec: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p"}, "spec": spec})
    }

    /// What is enforced for pod `server` of namespace `n`, beside `client` there and `client` in namespace `other`.
    fn rules(policies: &[Value], change: impl FnOnce(&mut [Value; 3])) -> String {
        let mut pods = [
            pod("n", "server", &["10.0.0.1", "fd00::1"]),
            pod("n", "client", &["10.0.0.2", "fd00::2"]),
            pod("other", "client", &["10.0.0.3", "fd00::3"]),
        ];
        change(&mut pods);
        let read = |value: Value| serde_json::from_value(value).unwrap();
        let pods: Vec<Pod> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
        let policies: Vec<NetworkPolicy> = policies.iter().cloned().map(read).collect();
        let namespaces = ["n", "other"].map(|name| json!({"metadata": {"name": name, "labels": {"name": name}}}));
        let namespaces = namespaces.map(|namespace| serde_json::from_value::<Namespace>(namespace).unwrap());
        let known = Known {
            policies: policies.iter().collect(),
            pods: pods.iter().collect(),
            namespaces: namespaces.iter().collect(),
        };
        known.rules("a").unwrap()
    }

    /// The rules of a chain, without the drop at its end.
    fn chain<'r>(rules: &'r str, name: &str) -> Vec<&'r str> {
        let start = format!("  chain {name} {{\n");
        let text = rules.split(&start).nth(1).unwrap_or_else(|| panic!("there is no chain {name} in {rules}"));
        let mut lines: Vec<_> = text.split("\n  }").next().unwrap().lines().map(str::trim).collect();
        assert_eq!(lines.pop(), Some("drop"));
        lines
    }

    fn server(more: Value) -> Value {
        let mut spec = json!({"podSelector": {"matchLabels": {"app": "server"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        policy(spec)
    }

    #[test]
    fn who_no_policy_selects_is_free() {
        let elsewhere = policy(json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Ingress"]}));
        assert!(!rules(&[elsewhere], |_| {}).contains("jump"));
        assert!(
            !rules(&[server(json!({"policyTypes": ["Ingress"]}))], |pods| pods[0]["spec"]["nodeName"] = json!("b"))
                .contains("jump")
        );
        let foreign = json!({"metadata": {"namespace": "other", "name": "p"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        let found = rules(&[foreign], |_| {});
        assert!(
            found.contains("10.0.0.3 jump") && !found.contains("10.0.0.1") && !found.contains("10.0.0.2"),
            "{found}"
        );
    }

    #[test]
    fn who_is_selected_gets_what_a_policy_allows_and_sends_what_it_likes() {
        let rule = json!({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "api"}]});
        let found = rules(&[server(json!({"policyTypes": ["Ingress"], "ingress": [rule]}))], |_| {});
        assert_eq!(
            chain(&found, "to-10-0-0-1"),
            ["ip saddr 10.0.0.2 tcp dport 8443 return", "ip6 saddr fd00::2 tcp dport 8443 return"],
            "the named port of TCP, from the client of the same namespace"
        );
        let ipv4 = "    ip saddr 10.0.0.1 ip daddr 10.0.0.1 accept\n    ip daddr 10.0.0.1 jump to-10-0-0-1\n";
        let ipv6 = "    ip6 saddr fd00::1 ip6 daddr fd00::1 accept\n    ip6 daddr fd00::1 jump to-10-0-0-1\n";
        assert!(found.contains(&format!("{ipv4}{ipv6}")), "{found}");
        assert!(!found.contains("from-10-0-0-1"), "{found}");
    }

    #[test]
    fn a_policy_without_rules_allows_nothing_and_one_with_an_empty_rule_everything() {
        let none = rules(&[server(json!({"policyTypes": ["Ingress", "Egress"]}))], |_| {});
        assert_eq!(chain(&none, "to-10-0-0-1"), [""; 0]);
        assert_eq!(chain(&none, "from-10-0-0-1"), [""; 0]);
        let all = rules(&[server(json!({"policyTypes": ["Ingress"], "ingress": [{}]}))], |_| {});
        assert_eq!(chain(&all, "to-10-0-0-1"), ["return"]);
    }

    #[test]
    fn policies_add_up() {
        let allow = |app: &str| json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]});
        let found = rules(&[server(allow("client")), server(allow("server"))], |_| {});
        assert_eq!(chain(&found, "to-10-0-0-1").len(), 4, "two addresses of each");
    }

    #[test]
    fn peers_are_pods_of_namespaces_and_blocks() {
        let from = json!([
            {"namespaceSelector": {"matchLabels": {"name": "other"}}, "podSelector": {"matchLabels": {"app": "client"}}},
            {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}},
        ]);
        let found = rules(&[server(json!({"policyTypes": ["Ingress"], "ingress": [{"from": from}]}))], |_| {});
        let expected = [
            "ip saddr 10.0.0.3 return",
            "ip saddr 192.0.2.0/24 ip saddr != 192.0.2.1/32 return",
            "ip6 saddr fd00::3 return",
        ];
        assert_eq!(chain(&found, "to-10-0-0-1"), expected);
    }

    #[test]
    fn what_is_sent_is_matched_by_where_it_goes() {
        let to = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
        let egress = json!([
            {"to": to, "ports": [{"port": "api", "protocol": "UDP"}, {"port": 80, "endPort": 90}]},
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": "api"}, {"protocol": "SCTP"}]},
        ]);
        let found = rules(&[server(json!({"policyTypes": ["Egress"], "egress": egress}))], |_| {});
        let expected = [
            "ip daddr 10.0.0.2 tcp dport 80-90 return",
            "ip daddr 10.0.0.2 udp dport 53 return",
            "ip6 daddr fd00::2 tcp dport 80-90 return",
            "ip6 daddr fd00::2 udp dport 53 return",
            "meta l4proto sctp return",
            "udp dport 53 return",
        ];
        assert_eq!(chain(&found, "from-10-0-0-1"), expected, "nobody in particular has no named port");
        assert!(found.contains("ip saddr 10.0.0.1 jump from-10-0-0-1"), "{found}");
    }

    #[test]
    fn a_pod_that_ended_or_shares_its_node_s_addresses_is_nobody() {
        let all = || [server(json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}))];
        let ended = rules(&all(), |pods| pods[1]["status"]["phase"] = json!("Succeeded"));
        assert!(!ended.contains("10.0.0.2"), "{ended}");
        let shares = rules(&all(), |pods| pods[1]["spec"]["hostNetwork"] = json!(true));
        assert!(!shares.contains("10.0.0.2"), "{shares}");
        let selected = rules(&all(), |pods| pods[0]["spec"]["hostNetwork"] = json!(true));
        assert!(!selected.contains("jump"), "{selected}");
    }
}
