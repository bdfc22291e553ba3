//! Links that send from their first packet on, while the kernel makes and removes other namespaces.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use podmeta_link::netns::Netns;
use podmeta_link::service;

use crate::cni::{RESULT, Request};
use crate::kit::{Agent, interface_of, pinned_pod, pod, request, run};

/// Number of links that are made while the kernel is busy.
const LINKS: usize = 40;

/// Number of threads that make and remove namespaces. They hold the lock that the kernel needs to activate a new link.
const BUSY_THREADS: usize = 8;

/// Returns the number of TCP segments that the kernel sent more than once.
fn retransmitted(netns: &Netns) -> u64 {
    let counters = run(netns, "nstat -asz TcpRetransSegs");
    let line = counters.lines().find(|line| line.starts_with("TcpRetransSegs")).unwrap();
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
                Request { agent: &agent, node: &node, n, pod: &path.0 }.run("ADD", &config).unwrap();
                assert_eq!(request(&pod, address).unwrap(), interface_of(&agent, n));
                assert_eq!(retransmitted(&agent.netns), 0, "segments of the agent end of link {n}");
                assert_eq!(retransmitted(&pod), 0, "segments of the pod end of link {n}");
            }
        });
        let result = links.join();
        is_over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}
