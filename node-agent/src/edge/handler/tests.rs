mod owner;

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use podmeta_metadata::compile::Settings;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::IpFamily;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::dev::{DevState, InputFile};
use crate::edge::fixture::edge;
use crate::edge::hop_limit::ResponseHopLimit;
use crate::edge::{Arrival, EdgeServer, FEW_CONNECTIONS};

/// A pod that needs no token and may send a burst of two requests. Its user data is in a Secret.
const OBJECTS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Secret
metadata: {name: user-data, labels: {podmeta.dev/usable-by: metadataprofiles}}
stringData: {script: echo}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  dialects: [ec2]
  metadataOptions: {httpTokens: optional}
  limits: {requestsPerSecond: 1, burst: 2}
  userData: {secretKeyRef: {name: user-data, key: script}}
";

/// Returns an edge with the pod of [`OBJECTS`]. Its operator is unreachable.
fn edge_with_pod(objects: &str) -> (Arc<Edge>, PodUid) {
    let edge = edge();
    let uid = publish(&edge, objects);
    (edge, uid)
}

/// Compiles the objects and publishes their pod. Returns its UID.
fn publish(edge: &Edge, objects: &str) -> PodUid {
    let file = InputFile { name: "objects".to_owned(), text: objects.to_owned() };
    let state = DevState::compile(&[file], jiff::Timestamp::UNIX_EPOCH, &Settings::default()).unwrap();
    let pod = state.pods["default/web"].clone();
    edge.publish([(pod.uid.clone(), pod.view)]);
    pod.uid
}

fn arrival(pod: &PodUid) -> Arrival {
    Arrival {
        pod: pod.clone(),
        service: Dialect::Ec2.service_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        family: IpFamily::Ipv4,
        host_rule: &HostRule::POD_LINK,
        owner: None,
    }
}

/// Sends bytes on a connection of a pod. Returns all responses.
async fn send(edge: &Arc<Edge>, pod: &PodUid, requests: &str) -> String {
    send_from(edge, arrival(pod), requests).await
}

/// Sends bytes on a connection. Returns all responses.
async fn send_from(edge: &Arc<Edge>, arrival: Arrival, requests: &str) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    let serve = EdgeServer::new(Arc::clone(edge), CancellationToken::new()).serve(server, Box::new(arrival));
    let exchange = async {
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut responses = String::new();
        client.read_to_string(&mut responses).await.unwrap();
        responses
    };
    tokio::join!(serve, exchange).1
}

fn tokenless_requests(edge: &Edge) -> String {
    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text.lines().find(|line| line.starts_with("podmeta_agent_tokenless_requests_total")).unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn request_that_waits_for_the_broker_takes_one_slot_and_counts_once() {
    let (edge, uid) = edge_with_pod(OBJECTS);
    let started = Instant::now();
    let response = send(&edge, &uid, "GET /latest/user-data HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    let pod = edge.pod(&uid).unwrap();
    let slots = [(); 2].map(|()| pod.rate_limiter.try_reserve(&pod.limits(), started));
    assert_eq!(slots, [true, false]);
    assert!(tokenless_requests(&edge).ends_with(" 1"), "{}", tokenless_requests(&edge));
}

#[tokio::test(start_paused = true)]
async fn request_that_needs_no_wait_takes_one_slot_and_counts_once() {
    let (edge, uid) = edge_with_pod(OBJECTS);
    let started = Instant::now();
    let response = send(&edge, &uid, "GET /latest/meta-data/hostname HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let pod = edge.pod(&uid).unwrap();
    let slots = [(); 2].map(|()| pod.rate_limiter.try_reserve(&pod.limits(), started));
    assert_eq!(slots, [true, false]);
    assert!(tokenless_requests(&edge).ends_with(" 1"), "{}", tokenless_requests(&edge));
}

#[tokio::test(start_paused = true)]
async fn body_of_a_request_is_not_read_as_the_next_request() {
    let (edge, uid) = edge_with_pod(OBJECTS);
    let body = "GET /latest/user-data HTTP/1.1\r\n\r\n";
    let length = body.len();
    let first = format!("GET /latest/meta-data/hostname HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
    let second = "GET /latest/meta-data/ HTTP/1.1\r\nConnection: close\r\n\r\n";
    let responses = send(&edge, &uid, &format!("{first}{second}")).await;
    assert_eq!(responses.matches("HTTP/1.1 ").count(), 2, "{responses}");
    assert_eq!(responses.matches("HTTP/1.1 200 ").count(), 2, "{responses}");
}

#[tokio::test]
async fn poll_handles_one_request_while_pods_share_the_thread() {
    for (open_connections, immediate) in [(FEW_CONNECTIONS, true), (FEW_CONNECTIONS + 1, false)] {
        let (edge, uid) = edge_with_pod(OBJECTS);
        let _open = (0..open_connections).map(|_| edge.metrics().open_connection()).collect::<Vec<_>>();
        let connection = EdgeConnection::new(Box::new(arrival(&uid)), Arc::new(ResponseHopLimit::default()));
        let stop = CancellationToken::new();
        let request = || http::Request::get("/latest/meta-data/hostname").body(()).unwrap();
        let is_immediate = || matches!(handle(&edge, &connection, request(), &stop), Either::Left(_));
        assert!(is_immediate());
        assert_eq!(is_immediate(), immediate, "second request with {open_connections} connections");
        if !immediate {
            connection.start_poll();
            assert!(is_immediate(), "first request of the next poll");
        }
    }
}

#[tokio::test]
async fn request_after_one_of_an_earlier_poll_waits_for_the_next_poll() {
    let (edge, uid) = edge_with_pod(&OBJECTS.replace("burst: 2", "burst: 200"));
    let _open = (0..=FEW_CONNECTIONS).map(|_| edge.metrics().open_connection()).collect::<Vec<_>>();
    let connection = EdgeConnection::new(Box::new(arrival(&uid)), Arc::new(ResponseHopLimit::default()));
    let stop = CancellationToken::new();
    let handle = || {
        let request = http::Request::get("/latest/meta-data/hostname").body(()).unwrap();
        handle(&edge, &connection, request, &stop)
    };
    assert!(matches!(handle(), Either::Left(_)));
    let mut second = pin!(handle());
    let mut is_ready = async || poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_ready())).await;
    assert!(!is_ready().await, "it waits for the next poll");
    connection.start_poll();
    assert!(is_ready().await);
    assert!(matches!(handle(), Either::Right(_)), "the second request has used the poll");
}

#[tokio::test]
async fn requests_that_wait_for_the_next_poll_are_served_in_order() {
    let (edge, uid) = edge_with_pod(&OBJECTS.replace("burst: 2", "burst: 200"));
    let _open = (0..=FEW_CONNECTIONS).map(|_| edge.metrics().open_connection()).collect::<Vec<_>>();
    let paths = (0..50).map(|n| if n % 2 == 0 { "hostname" } else { "mac" }).collect::<Vec<_>>();
    let request = |path: &&str| format!("GET /latest/meta-data/{path} HTTP/1.1\r\n\r\n");
    let requests = paths.iter().map(request).collect::<String>();
    let responses = send(&edge, &uid, &format!("{requests}GET / HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
    let bodies = responses.split("HTTP/1.1 200 OK").filter_map(|response| Some(response.split_once("\r\n\r\n")?.1));
    let bodies = bodies.collect::<Vec<_>>();
    let (hostname, mac) = (bodies[0], bodies[1]);
    assert_ne!(hostname, mac);
    assert_eq!(bodies[..50], [hostname, mac].repeat(25), "{responses}");
    assert_eq!(bodies.len(), 51, "{responses}");
}
