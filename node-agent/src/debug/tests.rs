use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::query::send;
use super::*;
use crate::edge::EdgeServer;
use crate::edge::fixture::{denied, edge};
use podmeta_service::listener::Acceptor;

/// A debug socket of a node with the denied pod `shop/web`.
struct DebugSocket {
    directory: PathBuf,
    _stop: DropGuard,
}

impl DebugSocket {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("podmeta-debug-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let edge = edge();
        let (web, view) = denied("web", "no profile");
        edge.publish([(web.clone(), view)]);
        let stop = CancellationToken::new();
        let server = EdgeServer::new(edge, stop.clone());
        let listener = bind(&directory.join("debug.sock")).unwrap();
        let find_pod = move |pod: &str| (pod == "shop/web").then(|| web.clone());
        serve(listener, &Acceptor::default(), stop.clone(), server, find_pod).unwrap();
        Self { directory, _stop: stop.drop_guard() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("debug.sock")
    }

    async fn get(&self, pod: &str) -> (StatusCode, Bytes) {
        let args = QueryArgs {
            pod: pod.to_owned(),
            dialect: Dialect::Ec2,
            paths: Vec::new(),
            tokenless: true,
            include: false,
            socket: self.path(),
        };
        let (head, body) = send(&args, Request::get("/latest/meta-data/")).await.unwrap();
        (head.status(), body)
    }
}

impl Drop for DebugSocket {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

#[tokio::test]
async fn pod_is_found_by_name_and_by_uid_and_an_unknown_pod_gets_503() {
    let socket = DebugSocket::start("pods");
    assert_eq!(socket.get("shop/web").await.0, StatusCode::FORBIDDEN);
    assert_eq!(socket.get("web").await.0, StatusCode::FORBIDDEN);
    for unknown in ["shop/other", "shop/web.v1", &format!("shop/{}", "x".repeat(250)), "other"] {
        assert_eq!(socket.get(unknown).await.0, StatusCode::SERVICE_UNAVAILABLE, "{unknown}");
    }
}

#[tokio::test]
async fn connection_with_an_invalid_first_line_is_closed() {
    let socket = DebugSocket::start("lines");
    let long = "x".repeat(2000);
    for line in ["shop/web", "shop/web ec3", "", &long] {
        let mut stream = UnixStream::connect(socket.path()).await.unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // The kernel may reset the connection, because the server did not read all bytes.
        drop(stream.read_to_end(&mut response).await);
        assert!(response.is_empty(), "{line:?}");
    }
}

#[tokio::test]
async fn socket_is_private_and_replaces_an_earlier_one() {
    let socket = DebugSocket::start("mode");
    assert_eq!(std::fs::metadata(socket.path()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(bind(&socket.path()).unwrap());
    assert_eq!(std::fs::metadata(socket.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn query_sends_a_host_that_a_pods_link_serves() {
    for dialect in Dialect::ALL {
        let host = super::query::host(dialect);
        assert!(!host.is_empty());
        let headers = http::HeaderMap::from_iter([(http::header::HOST, host.parse().unwrap())]);
        let rule = podmeta_metadata::host::HostRule::POD_LINK;
        assert_eq!(rule.check(&headers, http::Version::HTTP_11), Ok(()), "{dialect}");
    }
}
