use serde_json::{Value, json};

use super::*;

/// Returns a pod on node `a`, with a port named `api`.
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

/// Returns the rules of node `a` with pods `server` and `client` in namespace `n`, and `client` in namespace `other`.
fn rules(policies: &[Value], modify: impl FnOnce(&mut [Value; 3])) -> String {
    let mut pods = [
        pod("n", "server", &["10.0.0.1", "fd00::1"]),
        pod("n", "client", &["10.0.0.2", "fd00::2"]),
        pod("other", "client", &["10.0.0.3", "fd00::3"]),
    ];
    modify(&mut pods);
    let parse = |value: Value| serde_json::from_value(value).unwrap();
    let pods: Vec<Pod> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    let policies: Vec<NetworkPolicy> = policies.iter().cloned().map(parse).collect();
    let namespaces = ["n", "other"].map(|name| json!({"metadata": {"name": name, "labels": {"name": name}}}));
    let namespaces = namespaces.map(|namespace| serde_json::from_value::<Namespace>(namespace).unwrap());
    let objects = PolicyObjects {
        policies: policies.iter().collect(),
        pods: pods.iter().collect(),
        namespaces: namespaces.iter().collect(),
    };
    objects.rules("a").unwrap()
}

/// Returns the rules of a chain, without the final drop.
fn chain<'r>(rules: &'r str, name: &str) -> Vec<&'r str> {
    let start = format!("  chain {name} {{\n");
    let text = rules.split(&start).nth(1).unwrap_or_else(|| panic!("no chain {name} in {rules}"));
    let mut lines: Vec<_> = text.split("\n  }").next().unwrap().lines().map(str::trim).collect();
    assert_eq!(lines.pop(), Some("drop"));
    lines
}

/// Returns a policy in namespace `n` that selects pod `server`.
fn server_policy(spec_fields: Value) -> Value {
    let mut spec = json!({"podSelector": {"matchLabels": {"app": "server"}}});
    spec.as_object_mut().unwrap().extend(spec_fields.as_object().unwrap().clone());
    policy(spec)
}

#[test]
fn unselected_pods_are_not_restricted() {
    let other_app = policy(json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Ingress"]}));
    assert!(!rules(&[other_app], |_| {}).contains("jump"));
    assert!(
        !rules(&[server_policy(json!({"policyTypes": ["Ingress"]}))], |pods| pods[0]["spec"]["nodeName"] = json!("b"))
            .contains("jump")
    );
    let other_namespace = json!({"metadata": {"namespace": "other", "name": "p"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    let rules_text = rules(&[other_namespace], |_| {});
    assert!(
        rules_text.contains("10.0.0.3 jump") && !rules_text.contains("10.0.0.1") && !rules_text.contains("10.0.0.2"),
        "{rules_text}"
    );
}

#[test]
fn ingress_policy_restricts_ingress_only() {
    let rule = json!({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "api"}]});
    let rules_text = rules(&[server_policy(json!({"policyTypes": ["Ingress"], "ingress": [rule]}))], |_| {});
    assert_eq!(
        chain(&rules_text, "to-10-0-0-1"),
        ["ip saddr 10.0.0.2 tcp dport 8443 return", "ip6 saddr fd00::2 tcp dport 8443 return"],
        "the named TCP port, from the client of the same namespace"
    );
    let ipv4 = "    ip saddr 10.0.0.1 ip daddr 10.0.0.1 accept\n    ip daddr 10.0.0.1 jump to-10-0-0-1\n";
    let ipv6 = "    ip6 saddr fd00::1 ip6 daddr fd00::1 accept\n    ip6 daddr fd00::1 jump to-10-0-0-1\n";
    assert!(rules_text.contains(&format!("{ipv4}{ipv6}")), "{rules_text}");
    assert!(!rules_text.contains("from-10-0-0-1"), "{rules_text}");
}

#[test]
fn policy_without_rules_denies_all_and_empty_rule_allows_all() {
    let denied = rules(&[server_policy(json!({"policyTypes": ["Ingress", "Egress"]}))], |_| {});
    assert_eq!(chain(&denied, "to-10-0-0-1"), [""; 0]);
    assert_eq!(chain(&denied, "from-10-0-0-1"), [""; 0]);
    let allowed = rules(&[server_policy(json!({"policyTypes": ["Ingress"], "ingress": [{}]}))], |_| {});
    assert_eq!(chain(&allowed, "to-10-0-0-1"), ["return"]);
}

#[test]
fn policies_of_one_pod_are_combined() {
    let allow = |app: &str| json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]});
    let rules_text = rules(&[server_policy(allow("client")), server_policy(allow("server"))], |_| {});
    assert_eq!(chain(&rules_text, "to-10-0-0-1").len(), 4, "two addresses of each peer");
}

#[test]
fn peers_are_pods_of_selected_namespaces_and_ip_blocks() {
    let from = json!([
        {"namespaceSelector": {"matchLabels": {"name": "other"}}, "podSelector": {"matchLabels": {"app": "client"}}},
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}},
    ]);
    let rules_text = rules(&[server_policy(json!({"policyTypes": ["Ingress"], "ingress": [{"from": from}]}))], |_| {});
    let expected = [
        "ip saddr 10.0.0.3 return",
        "ip saddr 192.0.2.0/24 ip saddr != 192.0.2.1/32 return",
        "ip6 saddr fd00::3 return",
    ];
    assert_eq!(chain(&rules_text, "to-10-0-0-1"), expected);
}

#[test]
fn egress_rules_match_the_destination() {
    let to = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let egress = json!([
        {"to": to, "ports": [{"port": "api", "protocol": "UDP"}, {"port": 80, "endPort": 90}]},
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": "api"}, {"protocol": "SCTP"}]},
    ]);
    let rules_text = rules(&[server_policy(json!({"policyTypes": ["Egress"], "egress": egress}))], |_| {});
    let expected = [
        "ip daddr 10.0.0.2 tcp dport 80-90 return",
        "ip daddr 10.0.0.2 udp dport 53 return",
        "ip6 daddr fd00::2 tcp dport 80-90 return",
        "ip6 daddr fd00::2 udp dport 53 return",
        "meta l4proto sctp return",
        "udp dport 53 return",
    ];
    assert_eq!(chain(&rules_text, "from-10-0-0-1"), expected, "a rule without peers has no named ports");
    assert!(rules_text.contains("ip saddr 10.0.0.1 jump from-10-0-0-1"), "{rules_text}");
}

#[test]
fn terminated_and_host_network_pods_have_no_rules() {
    let all = || [server_policy(json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}))];
    let terminated = rules(&all(), |pods| pods[1]["status"]["phase"] = json!("Succeeded"));
    assert!(!terminated.contains("10.0.0.2"), "{terminated}");
    let host_network = rules(&all(), |pods| pods[1]["spec"]["hostNetwork"] = json!(true));
    assert!(!host_network.contains("10.0.0.2"), "{host_network}");
    let selected = rules(&all(), |pods| pods[0]["spec"]["hostNetwork"] = json!(true));
    assert!(!selected.contains("jump"), "{selected}");
}
