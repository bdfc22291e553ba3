//! The agent on links: sockets, identity and the accept queue.

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::client::{Client, INSTANCE_ID};
use crate::kit::{Agent, connect_many, pod, wait_until};
use crate::node::{LinkAgentProcess, RELEASE, ServingNode, listeners};

/// Connections of one pod at once.
const BURST: usize = 1000;

#[tokio::test]
async fn each_pod_gets_its_own_instance_id_at_every_service_address() {
    let node = ServingNode::start(2).await;
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        node.make_link(pod, n, LinkRange::default()).await;
    }
    for (n, pod) in pods.iter().enumerate() {
        for address in service::addresses() {
            let response = pod.run(|| Client::connect(address)?.get(INSTANCE_ID)).unwrap();
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

/// A copy in the link daemon would accept connections that no agent serves.
#[tokio::test]
async fn listener_ends_with_its_agent() {
    let agent = Agent::new().await;
    let process = LinkAgentProcess::start(&agent, &[], RELEASE.1);
    process.wait_for_log("serving the links of the node's pods");
    assert_ne!(listeners(&agent), "");
    drop(process);
    assert_eq!(listeners(&agent), "");
}

#[tokio::test]
async fn accept_queue_holds_32768_connections() {
    let node = ServingNode::start(1).await;
    let listeners = listeners(&node.agent);
    let fields = listeners.split_whitespace().collect::<Vec<_>>();
    assert_eq!(fields[..3], ["LISTEN", "0", "32768"], "{listeners}");
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
        let mut client = Client::from(TcpStream::from(OwnedFd::from(socket)));
        let response = client.get(INSTANCE_ID).unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!(response, (200, node.instance_id(0, address).to_owned()), "connection {number}");
    }
}
