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
    assert!(found.contains("10.0.0.3 jump") && !found.contains("10.0.0.1") && !found.contains("10.0.0.2"), "{found}");
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
