//! Memory that the connections, requests and tokens of hostile clients use.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::{TIMEOUT, open, served_while, server, server_with};
use crate::support::{ClientConnection, DevDirectory, get, token};

/// Returns the value of a counter of the agent.
fn counter(report: &serde_json::Value, name: &str) -> u64 {
    let admin = report["admin"].as_str().unwrap();
    let (_, text) = ClientConnection::open(admin).request("GET /metrics", &[]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn unread_responses_use_little_memory_while_another_pod_is_served() {
    const CONNECTIONS: usize = 300;
    let directory = DevDirectory::new("hostile-unread");
    raise_file_limit();
    let user_data = "x".repeat(16 * 1024);
    let spec = format!(
        "userData: {{inline: {user_data}}}, limits: {{requestsPerSecond: 2000, burst: 2000, connections: 1000}}"
    );
    let (server, report, addresses) = server_with(&directory, &["web", "other"], &spec);
    let token = token(&addresses[0]);
    let request = format!("GET /latest/user-data HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n\r\n");
    let pipelined = request.repeat(6);
    let before = server.resident_kib();
    served_while(&addresses[1], || {
        let mut clients = (0..CONNECTIONS)
            .map(|_| {
                let mut stream = open(&addresses[0]);
                socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
                stream.write_all(pipelined.as_bytes()).unwrap();
                stream
            })
            .collect::<Vec<_>>();
        let started = std::time::Instant::now();
        while counter(&report, "podmeta_agent_connections_evicted_total") == 0 {
            assert!(started.elapsed() < TIMEOUT / 4, "{CONNECTIONS} connections are not over the pod's budget");
        }
        let more = server.resident_kib().saturating_sub(before);
        assert!(more < CONNECTIONS as u64 * 16, "{CONNECTIONS} unread responses took {more} KiB");
        let complete = 6 * (user_data.len() as u64);
        let read = clients.iter_mut().filter_map(|stream| {
            let mut received = Vec::new();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let _timeout_or_reset = stream.read_to_end(&mut received);
            (received.len() as u64 > complete).then_some(String::from_utf8(received).unwrap())
        });
        let response = read.take(1).next().expect("a connection within the budget gets all responses");
        assert_eq!((response.matches("HTTP/1.1 200").count(), response.matches(&user_data).count()), (6, 6));
    });
}

#[test]
fn partial_heads_use_at_most_20_kib_each_while_another_pod_is_served() {
    const CONNECTIONS: u64 = 1000;
    let directory = DevDirectory::new("hostile-heads-memory");
    raise_file_limit();
    let (server, report, addresses) = server_with(&directory, &["web", "other"], "limits: {connections: 1024}");
    let before = server.resident_kib();
    let head = format!("GET /latest/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: {}", "x".repeat(7 * 1024));
    served_while(&addresses[1], || {
        let mut clients = (0..CONNECTIONS).map(|_| open(&addresses[0])).collect::<Vec<_>>();
        for part in head.as_bytes().chunks(1024) {
            for stream in &mut clients {
                stream.write_all(part).unwrap();
            }
        }
        // A response on a later connection shows that all heads have been read.
        assert_eq!(get(&addresses[0], "/latest/").0, 200);
        let more = server.resident_kib().saturating_sub(before);
        assert!(more < CONNECTIONS * 20, "{CONNECTIONS} partial heads took {more} KiB");
        assert_eq!(counter(&report, "podmeta_agent_connections_evicted_total"), 0);
    });
}

#[test]
fn ten_thousand_idle_connections_use_little_memory_while_another_pod_is_served() {
    let directory = DevDirectory::new("hostile-idle");
    raise_file_limit();
    let names = (0..41).map(|number| format!("web-{number}")).collect::<Vec<_>>();
    let (server, addresses) = server(&directory, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (other, pods) = addresses.split_last().unwrap();
    let before = server.resident_kib();
    served_while(other, || {
        let connect = |address: &String| (0..250).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
        let clients = pods.iter().flat_map(connect).collect::<Vec<_>>();
        assert_eq!(clients.len(), 10_000);
        // A response on a later connection of each pod shows that all its connections have been accepted.
        for address in pods {
            assert_eq!(get(address, "/latest/").0, 200);
        }
        let more = server.resident_kib().saturating_sub(before);
        assert!(more < 10_000 * 12, "10,000 idle connections took {more} KiB");
    });
}

#[test]
fn issued_tokens_use_no_memory_while_another_pod_is_served() {
    let directory = DevDirectory::new("hostile-tokens");
    let (server, addresses) = server(&directory, &["web", "other"]);
    let issue = |number: usize| {
        for _ in 0..number {
            let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 21600".to_owned();
            let response = ClientConnection::open(&addresses[0]).request("PUT /latest/api/token", &[ttl]);
            assert!(matches!(response, Some((200 | 429, _))), "{response:?}");
        }
    };
    issue(100);
    let before = server.resident_kib();
    served_while(&addresses[1], || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| issue(250));
            }
        });
    });
    let more = server.resident_kib().saturating_sub(before);
    assert!(more < 4 * 1024, "2,000 tokens took {more} KiB");
}

/// Raises the open file limit of this process to the hard limit. The server does the same for itself.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 11_000, "this test needs 11,000 open files; the hard limit is {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
