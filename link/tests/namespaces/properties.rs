//! Properties of a link that no response shows: MAC addresses, neighbours, scopes and sources. Also a link range without a free
//! address.

use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::kit::{Agent, alias, pod, run};

/// The agent end of the link of pod 0.
const AGENT_END: &str = "msandbox0";
const POD_END: &str = "imds0";
const AGENT_MAC: &str = "02:1d:01:00:00:00";
const POD_MAC: &str = "02:1d:02:00:00:00";

/// Returns the addresses of an interface with a scope, IPv4 first.
fn addresses(netns: &Netns, interface: &str, scope: &str) -> Vec<String> {
    let text = run(netns, &format!("ip -o addr show dev {interface} scope {scope}"));
    let address = |line: &str| line.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
    text.lines().map(address).collect()
}

#[tokio::test]
async fn link_has_fixed_macs_permanent_neighbours_and_routes_with_its_source() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    let has_mac = |netns: &Netns, interface, mac| {
        run(netns, &format!("ip -o link show {interface}")).contains(&format!("{mac} "))
    };
    // Without a permanent neighbour, the first packet waits for a response that another program could send.
    let has_neighbour = |netns: &Netns, interface, address: &str, mac| {
        run(netns, &format!("ip neigh show {address} dev {interface} nud permanent")).contains(mac)
    };
    let own = addresses(&pod, POD_END, "global");
    let services = service::addresses().into_iter().map(|address| address.to_string()).collect::<Vec<_>>();
    let has_source = |service: &String| {
        let (family, own) = if service.contains(':') { ("-6", &own[1]) } else { ("-4", &own[0]) };
        run(&pod, &format!("ip {family} route show {service}")).contains(&format!("src {own} "))
    };
    let properties = [
        ("MAC address of the pod end", has_mac(&pod, POD_END, POD_MAC)),
        ("MAC address of the agent end", has_mac(&agent.netns, AGENT_END, AGENT_MAC)),
        ("neighbours in the pod", services.iter().all(|service| has_neighbour(&pod, POD_END, service, AGENT_MAC))),
        ("the pod's neighbours", own.iter().all(|address| has_neighbour(&agent.netns, AGENT_END, address, POD_MAC))),
        ("two addresses of global scope", own.len() == 2 && own[0].starts_with("169.254.2")),
        ("no link-local address in the pod", addresses(&pod, POD_END, "link").is_empty()),
        ("no link-local address of the agent end", addresses(&agent.netns, AGENT_END, "link").is_empty()),
        ("source of the routes", services.iter().all(has_source)),
    ];
    let missing = properties.into_iter().filter(|(_, holds)| !holds).map(|(name, _)| name).collect::<Vec<_>>();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn link_range_without_a_free_address_is_an_error_and_a_freed_address_is_used() {
    let agent = Agent::new().await;
    let range = "10.99.0.0/24".parse::<LinkRange>().unwrap();
    let batch = agent.path.with_file_name("routes");
    let routes = (1..255).map(|n| format!("route add 10.99.0.{n}/32 dev lo\n"));
    std::fs::write(&batch, routes.collect::<String>()).unwrap();
    run(&agent.netns, &format!("ip -batch {}", batch.display()));
    let pod = pod();
    let error = pod_link::ensure(&agent.netns, &pod, &alias(0), range).await.unwrap_err().to_string();
    assert_eq!(error, "all addresses of the link range 10.99.0.0/24 are in use: set a larger range");
    run(&agent.netns, "ip route del 10.99.0.77/32 dev lo");
    pod_link::ensure(&agent.netns, &pod, &alias(0), range).await.unwrap();
    assert_eq!(addresses(&pod, POD_END, "global")[0], "10.99.0.77");
}
