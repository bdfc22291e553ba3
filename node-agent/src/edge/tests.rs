use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::request::IpFamily;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::edge::fixture::{denied, edge};

#[test]
fn publish_keeps_a_pod_whose_view_is_the_same_and_removes_missing_pods() {
    let edge = edge();
    edge.publish([denied("a", "one"), denied("b", "one"), denied("c", "one")]);
    let pods = ["a", "b"].map(|name| edge.pod(&name.try_into().unwrap()).unwrap());
    edge.publish([denied("a", "one"), denied("b", "two")]);
    assert!(Arc::ptr_eq(&pods[0], &edge.pod(&"a".try_into().unwrap()).unwrap()));
    assert!(!Arc::ptr_eq(&pods[1], &edge.pod(&"b".try_into().unwrap()).unwrap()));
    assert!(edge.pod(&"c".try_into().unwrap()).is_none());
}

#[test]
fn update_keeps_pods_that_are_not_named() {
    let edge = edge();
    edge.publish([denied("a", "one"), denied("b", "one"), denied("c", "one")]);
    let unchanged = edge.pod(&"a".try_into().unwrap()).unwrap();
    let (b, two) = denied("b", "two");
    edge.update([(b.clone(), Some(two.clone())), ("c".try_into().unwrap(), None)]);
    assert!(Arc::ptr_eq(&unchanged, &edge.pod(&"a".try_into().unwrap()).unwrap()));
    assert_eq!(*edge.pod(&b).unwrap().view(), two);
    assert!(edge.pod(&"c".try_into().unwrap()).is_none());
}

#[test]
fn changed_pod_keeps_its_limits_in_use() {
    let edge = edge();
    let (uid, one) = denied("a", "one");
    edge.publish([(uid.clone(), one)]);
    let now = tokio::time::Instant::now();
    let _permit = edge.pod(&uid).unwrap().connections.open(1, now).unwrap();
    edge.update([denied("a", "two")].map(|(uid, view)| (uid, Some(view))));
    assert!(edge.pod(&uid).unwrap().connections.open(1, now).is_err());
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const REQUEST: &[u8] = b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";

#[cfg(unix)]
async fn read_all(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Serves a connection of the denied pod `a`. Runs `client` with its other end and the token that stops the server.
#[cfg(unix)]
async fn serve_denied_pod<T>(client: impl AsyncFnOnce(UnixStream, CancellationToken) -> T) -> T {
    serve_pod("a", client).await
}

/// Serves a connection of a pod, as [`serve_denied_pod`] does. Only the pod `a` is known.
#[cfg(unix)]
async fn serve_pod<T>(pod: &str, client: impl AsyncFnOnce(UnixStream, CancellationToken) -> T) -> T {
    let (edge, stop) = (edge(), CancellationToken::new());
    edge.publish([denied("a", "two MetadataProfiles match it")]);
    let pod = pod.try_into().unwrap();
    let (stream, server) = UnixStream::pair().unwrap();
    let service = Dialect::Ec2.service_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let arrival = Arrival { pod, service, family: IpFamily::Ipv4, host_rule: &HostRule::POD_LINK, owner: None };
    let serve = EdgeServer::new(edge, stop.clone()).serve(server, Box::new(arrival));
    tokio::join!(serve, client(stream, stop)).1
}

/// Sends requests of a pod on one connection. Returns the responses and the log at level info.
#[cfg(unix)]
async fn requests_of_pod(pod: &str, count: usize) -> (String, String) {
    let log = LogBuffer::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    // While a process has a single subscriber, a log statement that another test's thread runs first is off in all threads.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _guard = tracing::subscriber::set_default(subscriber);
    let response = serve_pod(pod, async |mut client, _stop| {
        for _ in 1..count {
            client.write_all(REQUEST).await.unwrap();
        }
        client.write_all(b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n").await.unwrap();
        read_all(&mut client).await
    })
    .await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (response, log)
}

#[cfg(unix)]
#[tokio::test]
async fn rejection_of_a_denied_pod_is_logged_with_its_reason() {
    let (response, log) = requests_of_pod("a", 1).await;
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
    assert!(log.contains(r#""pod":"shop/a""#) && log.contains("two MetadataProfiles match it"), "{log}");
    assert!(!log.contains("pod_uid"), "{log}");
}

#[cfg(unix)]
#[tokio::test]
async fn rejection_of_an_unknown_pod_is_logged_with_its_uid() {
    let (response, log) = requests_of_pod("b", 1).await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(log.contains(r#""pod_uid":"b""#) && !log.contains(r#""pod":"#), "{log}");
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn many_rejections_of_a_pod_are_one_log_line_a_second() {
    let (response, log) = requests_of_pod("a", 240).await;
    assert_eq!(response.matches("HTTP/1.1 403 ").count(), 240);
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn first_request_after_stop_gets_a_response_that_closes_the_connection() {
    let response = serve_denied_pod(async |mut client, stop| {
        stop.cancel();
        tokio::time::advance(Duration::from_millis(500)).await;
        client.write_all(REQUEST).await.unwrap();
        read_all(&mut client).await
    });
    let response = response.await;
    assert!(response.starts_with("HTTP/1.1 403 ") && response.contains("Connection: close\r\n"), "{response}");
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn next_request_of_a_kept_connection_after_stop_gets_a_response_that_closes_it() {
    let response = serve_denied_pod(async |mut client, stop| {
        client.write_all(REQUEST).await.unwrap();
        assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        stop.cancel();
        tokio::time::advance(Duration::from_millis(500)).await;
        client.write_all(REQUEST).await.unwrap();
        read_all(&mut client).await
    });
    let response = response.await;
    assert!(response.starts_with("HTTP/1.1 403 ") && response.contains("Connection: close\r\n"), "{response}");
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn idle_connection_closes_one_second_after_stop() {
    let started = tokio::time::Instant::now();
    let response = serve_denied_pod(async |mut client, stop| {
        stop.cancel();
        read_all(&mut client).await
    });
    assert_eq!(response.await, "");
    assert_eq!(started.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn new_connection_of_a_pod_that_loses_connections_is_served_later() {
    let edge = edge();
    edge.publish([denied("a", "one"), denied("b", "one")]);
    let start = tokio::time::Instant::now();
    let key = edge.pod(&"a".try_into().unwrap()).unwrap().connections.key();
    let _lost = (0..3000).map(|_| edge.memory.open(key, start)).collect::<Vec<_>>();
    for (pod, is_delayed) in [("b", false), ("a", true)] {
        let (mut client, server) = UnixStream::pair().unwrap();
        let arrival = Arrival {
            pod: pod.try_into().unwrap(),
            service: Dialect::Ec2.service_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            family: IpFamily::Ipv4,
            host_rule: &HostRule::POD_LINK,
            owner: None,
        };
        let served = EdgeServer::new(Arc::clone(&edge), CancellationToken::new()).serve(server, Box::new(arrival));
        let request = async {
            client.write_all(REQUEST).await.unwrap();
            client.read_u8().await.unwrap();
            drop(client);
        };
        tokio::join!(served, request);
        assert_eq!(start.elapsed() > Duration::from_millis(100), is_delayed, "pod {pod}: {:?}", start.elapsed());
    }
}

#[test]
fn pods_are_served_in_the_background_only_while_many_connections_are_open() {
    let edge = edge();
    let _few = (0..FEW_CONNECTIONS).map(|_| edge.metrics().open_connection()).collect::<Vec<_>>();
    assert_eq!(edge.poll_mode(), PollMode::Free);
    let _one_more = edge.metrics().open_connection();
    assert_eq!(edge.poll_mode(), PollMode::Shared);
}

#[tokio::test(start_paused = true)]
async fn request_of_a_new_pod_waits_for_its_workload() {
    let edge = edge();
    let (uid, view) = denied("a", "one");
    let publish = async {
        tokio::time::advance(UNKNOWN_POD_WAIT / 2).await;
        edge.publish([denied("b", "one")]);
        tokio::time::advance(UNKNOWN_POD_WAIT / 4).await;
        edge.publish([(uid.clone(), view)]);
    };
    let (pod, ()) = tokio::join!(edge.wait_for_pod(&uid), publish);
    assert!(pod.is_some());
}

#[tokio::test(start_paused = true)]
async fn request_of_an_unknown_pod_waits_800_ms_at_most() {
    let started = tokio::time::Instant::now();
    assert!(edge().wait_for_pod(&"a".try_into().unwrap()).await.is_none());
    assert_eq!(started.elapsed(), Duration::from_millis(800));
}
