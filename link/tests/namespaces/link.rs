//! Links of pods.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use podmeta_link::agent_ns;
use podmeta_link::pod_link::{self, Conflict, LinkOutcome};
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::kit::{Agent, alias, connect_many, interface_of, nft, pod, request, run, table, wait_until};

#[tokio::test]
async fn each_pod_reaches_all_service_addresses_by_its_own_interface() {
    let agent = Agent::new().await;
    agent.serve();
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        let outcome = pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
        assert_eq!(outcome, LinkOutcome::Made);
    }
    for (n, pod) in pods.iter().enumerate() {
        for address in service::addresses() {
            assert_eq!(request(pod, address).unwrap(), interface_of(&agent, n), "pod {n}, {address}");
        }
    }
}

#[tokio::test]
async fn connection_is_refused_while_no_agent_listens() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    for address in service::addresses() {
        assert_eq!(request(&pod, address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

#[tokio::test]
async fn complete_link_is_kept() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    let before = interface_of(&agent, 0);
    let outcome = pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    assert_eq!((outcome, interface_of(&agent, 0)), (LinkOutcome::Kept, before));
}

#[tokio::test]
async fn damaged_link_is_made_again() {
    let damage = [
        "ip route del 169.254.169.254",
        "ip -6 route del fd00:ec2::254",
        "ip link set imds0 down",
        "ip link del imds0",
        "ip addr flush dev imds0",
    ];
    let agent = Agent::new().await;
    agent.serve();
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    for command in damage {
        run(&pod, command);
        assert!(!pod_link::is_complete(&agent.netns, &pod, &alias(0)).await.unwrap(), "{command}");
        let outcome = pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
        assert_eq!(outcome, LinkOutcome::Made, "{command}");
        for address in service::addresses() {
            assert_eq!(request(&pod, address).unwrap(), interface_of(&agent, 0), "{command}, {address}");
        }
    }
}

/// A route with a greater metric lets a route of a router advertisement take precedence.
#[tokio::test]
async fn link_whose_ipv6_route_has_another_metric_is_made_again() {
    let agent = Agent::new().await;
    agent.serve();
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    for address in service::ipv6() {
        let route = || run(&pod, &format!("ip -6 route show {address}"));
        assert!(route().contains("metric 1 "), "{}", route());
        for metric in ["metric 2", ""] {
            run(&pod, &format!("ip -6 route del {address} dev imds0"));
            run(&pod, &format!("ip -6 route add {address} dev imds0 {metric}"));
            assert!(!pod_link::is_complete(&agent.netns, &pod, &alias(0)).await.unwrap(), "{}", route());
            let outcome = pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
            assert_eq!(outcome, LinkOutcome::Made);
            assert!(route().contains("metric 1 "), "{}", route());
            assert_eq!(request(&pod, address.into()).unwrap(), interface_of(&agent, 0), "{address}");
        }
    }
}

#[tokio::test]
async fn link_of_an_older_sandbox_in_the_same_namespace_is_replaced() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    let outcome = pod_link::ensure(&agent.netns, &pod, &alias(1), LinkRange::default()).await.unwrap();
    assert_eq!(outcome, LinkOutcome::Made);
    let links = run(&agent.netns, "ip -o link show type veth");
    assert!(links.lines().count() == 1 && links.contains("uid=uid-1 "), "{links}");
}

#[tokio::test]
async fn foreign_address_or_route_in_the_pod_is_an_error_and_is_kept() {
    let agent = Agent::new().await;
    let with_address = pod();
    run(&with_address, "ip addr add 169.254.169.254/32 dev lo");
    let error = pod_link::ensure(&agent.netns, &with_address, &alias(0), LinkRange::default()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Conflict::Address(_))), "{error:#}");
    assert!(run(&with_address, "ip addr show dev lo").contains("169.254.169.254"));
    let with_route = pod();
    run(&with_route, "ip route add 100.100.100.200 dev lo");
    let error = pod_link::ensure(&agent.netns, &with_route, &alias(1), LinkRange::default()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Conflict::Route(_))), "{error:#}");
    assert!(run(&with_route, "ip route").contains("100.100.100.200 dev lo"));
}

#[tokio::test]
async fn pod_without_a_namespace_of_its_own_gets_no_link() {
    let agent = Agent::new().await;
    let host = podmeta_link::netns::Netns::current().unwrap();
    assert!(pod_link::ensure(&agent.netns, &host, &alias(0), LinkRange::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn links_made_at_the_same_time_have_different_addresses() {
    let agent = std::sync::Arc::new(Agent::new().await);
    let range = "10.99.0.0/24".parse::<LinkRange>().unwrap();
    let tasks = (0..40).map(|n| {
        let agent = std::sync::Arc::clone(&agent);
        tokio::spawn(async move {
            let pod = pod();
            pod_link::ensure(&agent.netns, &pod, &alias(n), range).await.unwrap();
            pod
        })
    });
    let mut addresses = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        let pod = task.await.unwrap();
        let text = run(&pod, "ip -o -4 addr show dev imds0");
        addresses.insert(text.split_whitespace().nth(3).unwrap().to_owned());
    }
    assert_eq!(addresses.len(), 40);
}

#[tokio::test]
async fn link_disappears_with_the_pods_namespace() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    drop(pod);
    wait_until("the link is gone", || run(&agent.netns, "ip -o link show type veth").is_empty()).await;
}

#[tokio::test]
async fn neighbours_link_address_as_source_gets_no_response() {
    let agent = Agent::new().await;
    agent.serve();
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    for (family, service, length, flags) in [("-4", "169.254.169.254", 32, ""), ("-6", "fd00:ec2::254", 128, "nodad")] {
        let addresses = run(&pods[0], &format!("ip -o {family} addr show dev imds0 scope global"));
        let victim = addresses.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
        run(&pods[1], &format!("ip {family} addr add {victim}/{length} dev imds0 {flags}"));
        // The IPv6 route of podmeta has metric 1.
        let metric = if service.contains(':') { "metric 1" } else { "" };
        run(&pods[1], &format!("ip {family} route replace {service}/{length} dev imds0 src {victim} {metric}"));
        assert!(request(&pods[1], service.parse().unwrap()).is_err(), "{service}");
        assert_eq!(request(&pods[0], service.parse().unwrap()).unwrap(), interface_of(&agent, 0), "{service}");
    }
    assert!(agent.dropped_foreign_sources() > 0, "the reverse path filter of IPv4 drops without a rule");
}

#[tokio::test]
async fn fragmented_packet_does_not_reach_the_agent() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    for address in service::addresses() {
        let receiver = agent.netns.run(|| UdpSocket::bind((address, 0))).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = receiver.local_addr().unwrap();
        // The kernel cuts the first datagram into three fragments. The second one arrives later, in one packet.
        for length in [4000, 100] {
            let sender = pod.run(|| UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })).unwrap();
            assert_eq!(sender.send_to(&vec![0; length], to).unwrap(), length);
        }
        assert_eq!(receiver.recv(&mut [0; 5000]).unwrap(), 100, "{address}");
    }
    assert_eq!(agent.dropped_fragments(), [3 * service::ipv4().len() as u64, 3 * service::ipv6().len() as u64]);
}

#[tokio::test]
async fn changed_filter_of_the_agent_namespace_is_replaced_and_an_equal_one_is_kept() {
    let agent = Agent::new().await;
    let with_handles = || run(&agent.netns, "nft -s -a list table inet podmeta_agent");
    let (original, before) = (table(&agent.netns, "podmeta_agent"), with_handles());
    agent_ns::ensure(&agent.path).await.unwrap();
    assert_eq!(with_handles(), before, "an equal table is kept");
    for change in ["add table inet podmeta_agent { flags dormant; }", "delete chain inet podmeta_agent arriving"] {
        nft(&agent.netns, change);
        agent_ns::ensure(&agent.path).await.unwrap();
        assert_eq!(table(&agent.netns, "podmeta_agent"), original, "{change}");
    }
}

#[tokio::test]
async fn burst_of_a_thousand_connections_loses_none() {
    let agent = Agent::new().await;
    agent.serve();
    for (n, address) in service::addresses().into_iter().enumerate() {
        let pod = pod();
        pod_link::ensure(&agent.netns, &pod, &alias(n), LinkRange::default()).await.unwrap();
        let sockets = connect_many(&pod, address, 1000);
        wait_until("all are connected", || sockets.iter().all(|socket| socket.peer_addr().is_ok())).await;
        assert_eq!(agent.dropped_connections(), 0, "{address}");
    }
}

#[tokio::test]
async fn flood_of_new_connections_is_limited_and_a_neighbour_connects() {
    let agent = Agent::new().await;
    agent.serve();
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    let address = service::addresses()[0];
    // A busy machine can be slower than the limit, so the flood is repeated.
    let mut floods = (0..5).map(|_| connect_many(&pods[0], address, 6000));
    let flood = floods.find(|_| agent.dropped_connections() > 0);
    assert!(flood.is_some(), "the limit dropped nothing");
    for _ in 0..50 {
        assert_eq!(request(&pods[1], address).unwrap(), interface_of(&agent, 1));
    }
}
