//! Pods whose profile restricts users: the agent gets the owner of a client's socket from the link daemon.

use std::io;
use std::net::{IpAddr, TcpStream};

use nix::unistd::{Uid, setfsuid};
use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};

use crate::client::{INSTANCE_ID, PodConnection};
use crate::kit::pod;
use crate::node::ServingNode;

/// Log line of a connection without an owner.
const FAILED_LOOKUP: &str = "cannot find the user of a client";

/// Starts an agent with one pod on a link, whose profile has this field.
async fn start(field: &str) -> (ServingNode, Netns) {
    start_with_users(field, None).await
}

/// Starts an agent with one pod on a link, whose user namespace has these ranges.
async fn start_with_users(field: &str, users: Option<Vec<(u32, u32, u32)>>) -> (ServingNode, Netns) {
    let (node, pod) = (ServingNode::start_with_profile(1, "httpPutResponseHopLimit: 1", field).await, pod());
    node.make_link(&pod, 0, LinkRange::default()).await;
    node.add_sandbox(&pod, 0, users);
    (node, pod)
}

/// Connects from a pod as a user.
fn connect(pod: &Netns, user: u32, address: IpAddr) -> PodConnection {
    pod.run(|| connect_as(user, address)).unwrap()
}

/// Connects as a user, from the network namespace of the calling thread. The thread must end afterwards.
fn connect_as(user: u32, address: IpAddr) -> io::Result<PodConnection> {
    setfsuid(Uid::from_raw(user));
    PodConnection::connect(address)
}

/// Returns the status of a request of a user.
fn status(pod: &Netns, user: u32, address: IpAddr) -> u16 {
    connect(pod, user, address).get(INSTANCE_ID).unwrap().0
}

#[tokio::test]
async fn allowed_user_gets_200_and_another_one_403_at_every_service_address() {
    let (_node, pod) = start("allowedUsers: [0]").await;
    for address in service::addresses() {
        assert_eq!(status(&pod, 0, address), 200, "{address}");
        assert_eq!(status(&pod, 1000, address), 403, "{address}");
        let mut client = connect(&pod, 0, address);
        let statuses = [(); 3].map(|()| client.get(INSTANCE_ID).unwrap().0);
        assert_eq!(statuses, [200; 3], "{address}");
    }
}

#[tokio::test]
async fn denied_user_gets_403_and_another_one_200() {
    let (_node, pod) = start("deniedUsers: [1000]").await;
    for address in service::addresses() {
        assert_eq!(status(&pod, 1000, address), 403, "{address}");
        assert_eq!(status(&pod, 33, address), 200, "{address}");
    }
}

/// The kernel finds the owner of the socket, not the process that sends.
#[tokio::test]
async fn socket_that_another_user_created_counts_as_that_user_s() {
    let (_node, pod) = start("allowedUsers: [0]").await;
    let address = service::addresses()[0];
    let stream = pod.run(|| {
        setfsuid(Uid::from_raw(1000));
        TcpStream::connect((address, SERVICE_PORT))
    });
    // This thread is root.
    assert_eq!(PodConnection::from(stream.unwrap()).get(INSTANCE_ID).unwrap().0, 403);
}

#[tokio::test]
async fn without_the_daemon_new_connections_get_503_and_the_log_names_the_cause() {
    let (mut node, pod) = start("allowedUsers: [0]").await;
    let address = service::addresses()[0];
    let mut client = connect(&pod, 0, address);
    assert_eq!(client.get(INSTANCE_ID).unwrap().0, 200);
    node.stop_daemon();
    assert_eq!(status(&pod, 0, address), 503);
    let line = node.wait_for_log(FAILED_LOOKUP);
    assert!(line.contains("cannot connect to the link daemon"), "{line}");
    assert_eq!(client.get(INSTANCE_ID).unwrap().0, 200, "the owner of an open connection is known");
}

#[tokio::test]
async fn pod_whose_user_ids_are_unknown_gets_403() {
    let (node, pod) = start_with_users("deniedUsers: [33]", Some(Vec::new())).await;
    let address = service::addresses()[0];
    assert_eq!(status(&pod, 100_033, address), 403);
    assert_eq!(status(&pod, 101_000, address), 403);
    let line = node.wait_for_log(FAILED_LOOKUP);
    assert!(line.contains("does not report the user IDs"), "{line}");
}

#[tokio::test]
async fn users_of_a_user_namespace_count_by_their_ids_in_the_pod() {
    let (_node, pod) = start_with_users("deniedUsers: [33]", Some(vec![(100_000, 0, 65_536)])).await;
    let address = service::addresses()[0];
    assert_eq!(status(&pod, 100_033, address), 403);
    assert_eq!(status(&pod, 101_000, address), 200);
}
