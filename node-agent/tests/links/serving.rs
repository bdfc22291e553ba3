//! An agent that serves links: its listeners, the identity of pods, and the accept queue.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::client::{INSTANCE_ID, PodConnection};
use crate::kit::{Agent, connect_many, pod, run, wait_until};
use crate::node::{LinkAgentProcess, RELEASE, ServingNode};

/// Number of connections that one pod opens at the same time.
const BURST: usize = 1000;

/// Number of connections of one link that the agent namespace allows as a burst. More are dropped.
const ALLOWED_BURST: usize = 2000;

/// Returns the listeners of the agent namespace, one line each.
fn listeners(agent: &Agent) -> String {
    run(&agent.netns, "ss -Hltn")
}

#[tokio::test]
async fn each_pod_gets_its_own_instance_id_at_every_service_address() {
    let node = ServingNode::start(2).await;
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        node.make_link(pod, n, LinkRange::default()).await;
    }
    for (n, pod) in pods.iter().enumerate() {
        for address in service::addresses() {
            let response = pod.run(|| PodConnection::connect(address)?.get(INSTANCE_ID)).unwrap();
            assert_eq!(response, (200, node.instance_id(n, address).to_owned()), "pod {n}, {address}");
        }
    }
}

#[tokio::test]
async fn pod_of_another_namespace_with_the_labels_of_an_agent_gets_no_sockets() {
    let agent = Agent::new().await;
    let process = LinkAgentProcess::start(&agent, &[], "other");
    process.wait_for_log("is not a node agent of this release");
    assert_eq!(listeners(&agent), "");
}

/// If the link daemon kept a copy of the listener, the kernel would still accept connections, which no agent serves.
#[tokio::test]
async fn listener_ends_with_its_agent() {
    let agent = Agent::new().await;
    let process = LinkAgentProcess::start(&agent, &[], RELEASE.1);
    process.wait_for_log("serving the links of the node's pods");
    assert_ne!(listeners(&agent), "");
    drop(process);
    assert_eq!(listeners(&agent), "");
}

/// A queue of 4,096 connections would be too short: the bursts of three pods would fill it, and the connection of the neighbour would
/// time out.
#[tokio::test]
async fn bursts_of_four_pods_while_no_connection_is_accepted_leave_room_for_a_neighbour() {
    let node = ServingNode::start(5).await;
    let [neighbour, others @ ..] = [(); 5].map(|()| pod());
    node.make_link(&neighbour, 0, LinkRange::default()).await;
    for (n, other) in others.iter().enumerate() {
        node.make_link(other, n + 1, LinkRange::default()).await;
    }
    let address = service::addresses()[0];
    let paused = node.pause();
    for other in &others {
        // A closed connection stays in the queue.
        other.run(|| (0..ALLOWED_BURST).try_for_each(|_| PodConnection::connect(address).map(drop))).unwrap();
    }
    assert_eq!(node.agent.dropped_connections(), 0, "the limit of a link dropped connections");
    let mut client = neighbour.run(|| PodConnection::connect_within(address, Duration::from_secs(1))).unwrap();
    drop(paused);
    assert_eq!(client.get(INSTANCE_ID).unwrap(), (200, node.instance_id(0, address).to_owned()));
}

#[tokio::test]
async fn burst_of_a_thousand_connections_is_served() {
    let node = ServingNode::start(1).await;
    let pod = pod();
    node.make_link(&pod, 0, LinkRange::default()).await;
    let address = service::addresses()[0];
    let sockets = connect_many(&pod, address, BURST);
    wait_until("all are connected", || sockets.iter().all(|socket| socket.peer_addr().is_ok())).await;
    assert_eq!(node.agent.dropped_connections(), 0);
    for (number, socket) in sockets.into_iter().enumerate() {
        socket.set_nonblocking(false).unwrap();
        let mut client = PodConnection::from(TcpStream::from(OwnedFd::from(socket)));
        let response = client.get(INSTANCE_ID).unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!(response, (200, node.instance_id(0, address).to_owned()), "connection {number}");
    }
}
