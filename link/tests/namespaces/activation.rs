//! Agent ends that can send as soon as the plugin returns.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::cni::{PluginCall, RESULT};
use crate::kit::{Agent, alias, interface_of, pinned_pod, pod, request, run, wait_until};

/// Number of links that are made while the kernel is busy.
const LINKS: usize = 40;

/// Number of threads that make and remove namespaces. They hold the RTNL lock, which the kernel needs to activate a new link.
const BUSY_THREADS: usize = 8;

/// Returns the number of SYN-ACKs that the kernel sent more than once.
fn repeated_syn_acks(agent: &Netns) -> u64 {
    let counters = run(agent, "nstat -asz TcpExtTCPSynRetrans");
    let line = counters.lines().find(|line| line.starts_with("TcpExtTCPSynRetrans")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn first_packets_of_a_link_arrive_while_the_kernel_is_busy() {
    let agent = Agent::new().await;
    agent.serve();
    let node = pod();
    let address = IpAddr::V4(service::ipv4()[0]);
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"podmeta-cni","prevResult":{RESULT}}}"#);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..BUSY_THREADS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _removed = Netns::create().unwrap();
                }
            });
        }
        let links = scope.spawn(|| {
            for n in 0..LINKS {
                let (pod, path) = pinned_pod(&agent, &format!("pod{n}"));
                PluginCall { agent: &agent, node: &node, n, pod: &path.0 }.run("ADD", &config).unwrap();
                assert_eq!(request(&pod, address).unwrap(), interface_of(&agent, n));
                assert_eq!(repeated_syn_acks(&agent.netns), 0, "the agent end of link {n} dropped a packet");
            }
        });
        let result = links.join();
        is_over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

#[tokio::test]
async fn wait_for_a_link_ends_when_both_ends_are_up() {
    let agent = Agent::new().await;
    let pod = pod();
    let alias = alias(0);
    pod_link::ensure(&agent.netns, &pod, &alias, LinkRange::default()).await.unwrap();
    run(&pod, "ip link set imds0 down");
    let is_down = || run(&agent.netns, "ip -o link show type veth").contains("NO-CARRIER");
    wait_until("the agent end has no carrier", is_down).await;
    let mut wait = pin!(pod_link::wait_until_active(&agent.netns, &alias));
    let waited = tokio::time::timeout(Duration::from_millis(100), wait.as_mut()).await;
    assert!(waited.is_err(), "an interface without a carrier is active");
    run(&pod, "ip link set imds0 up");
    wait.await.unwrap();
}
