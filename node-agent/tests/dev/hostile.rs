//! Hostile clients: each gets the cloud's response or a closed connection, the server uses little memory, and another
//! pod is served meanwhile.

mod memory;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{ClientConnection, DevDirectory, DevServerProcess, endpoint_address, get, token};

/// Longer than the server's idle timeout.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Starts a server with these pods. Each has the default limits.
fn server(directory: &DevDirectory, pods: &[&str]) -> (DevServerProcess, Vec<String>) {
    let (server, _, addresses) = server_with(directory, pods, "");
    (server, addresses)
}

/// Starts a server with these pods and more fields in the `spec` of their profile. Returns it, its first report, and the
/// address of each pod.
fn server_with(
    directory: &DevDirectory,
    pods: &[&str],
    spec: &str,
) -> (DevServerProcess, serde_json::Value, Vec<String>) {
    let mut text = format!(
        "
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {{name: all}}
spec: {{podSelector: {{matchLabels: {{app: web}}}}, dialects: [ec2], {spec}}}
"
    );
    for pod in pods {
        text.push_str(&format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, labels: {{app: web}}}}, spec: {{containers: [{{name: a, image: a}}]}}}}\n"
        ));
    }
    directory.write("pods.yaml", &text);
    let (server, report) = DevServerProcess::start(directory, &["-f", "pods.yaml", "--log", "error"]);
    let addresses = pods.iter().map(|pod| endpoint_address(&report, &format!("default/{pod}"), "ec2").unwrap());
    let addresses = addresses.collect();
    (server, report, addresses)
}

/// Sends bytes on a new connection and reads until the server closes it.
fn send(address: &str, bytes: &[u8]) -> String {
    let mut stream = open(address);
    // The server may close the connection before it has read all bytes.
    drop(stream.write_all(bytes));
    read_to_close(&mut stream)
}

fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Reads until the connection is closed.
fn read_to_close(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    match stream.read_to_end(&mut read) {
        Ok(_) => {}
        // The kernel sends a reset after the response if the server did not read all bytes.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    String::from_utf8(read).unwrap()
}

fn status(response: &str) -> &str {
    response.get(9..12).unwrap_or("")
}

/// Sets a flag when it is dropped.
struct SetOnDrop<'d>(&'d AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gets an item of a pod in a loop while `action` runs. Each request must be served.
fn served_while(address: &str, action: impl FnOnce()) {
    let (done, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let token = token(address);
            let mut connection = ClientConnection::open(address);
            while !done.load(Ordering::Relaxed) {
                match connection.request("GET /latest/meta-data/instance-id", std::slice::from_ref(&token)) {
                    Some((200, _)) => served.fetch_add(1, Ordering::Relaxed),
                    Some((429, _)) => 0, // the rate limit applies to this loop too
                    other => panic!("the other pod got {other:?}"),
                };
            }
        });
        let _done = SetOnDrop(&done); // also after a panic
        action();
    });
    assert!(served.into_inner() > 0, "the other pod was served");
}

#[test]
fn malformed_head_gets_the_clouds_response_and_the_connection_is_closed() {
    let directory = DevDirectory::new("hostile-heads");
    let (_server, addresses) = server(&directory, &["web"]);
    let address = &addresses[0];
    let token = token(address);
    let get = "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n";
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
    let long = "x".repeat(100_000);
    for (head, expected) in [
        (
            format!(
                "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n\r\n"
            ),
            "400",
        ),
        (format!("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n\r\n"), "400"),
        (format!("{get}{token}\r\nX-A: a\rb\r\n\r\n"), "400"),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400"),
        (format!("{put}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400"),
        (format!("{put}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), "400"),
        (format!("{put}Content-Length: 99999999\r\n\r\n"), "413"),
        (format!("{get}{token}\r\nX-Long: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"), "431"),
        (format!("{get}{}\r\n", "X-A: b\r\n".repeat(101)), "431"),
        (format!("{get}Connection: close\r\n{token}\r\n{token}\r\n\r\n"), "401"),
        ("GET /latest/meta-data/\r\n\r\n".to_owned(), "400"),
    ] {
        let response = send(address, head.as_bytes());
        let shown = head.chars().take(120).collect::<String>();
        assert_eq!(status(&response), expected, "{shown:?} got {response:?}");
        assert_eq!(response.matches("HTTP/1.").count(), 1, "{shown:?} got one response: {response:?}");
        assert!(!response.contains("instance-id"), "{shown:?} got a listing");
    }
    let preface = send(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(matches!(status(&preface), "" | "400"), "{preface:?}");
}

#[test]
fn pipelined_and_split_requests_get_responses_in_order() {
    let directory = DevDirectory::new("hostile-pipelining");
    let (_server, addresses) = server(&directory, &["web"]);
    let address = &addresses[0];
    let token = token(address);
    let request = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n{more}\r\n").into_bytes()
    };
    let mut pipelined = Vec::new();
    for number in 0..200 {
        pipelined.extend(request(if number % 2 == 0 { "/latest/meta-data/mac" } else { "/latest/none" }, ""));
    }
    pipelined.extend(request("/latest/", "Connection: close\r\n"));
    let responses = send(address, &pipelined);
    let statuses = responses.match_indices("HTTP/1.1 ").map(|(at, _)| status(&responses[at..])).collect::<Vec<_>>();
    assert_eq!(statuses.len(), 201);
    for (number, status) in statuses.iter().enumerate() {
        assert_eq!(*status, if number % 2 == 0 { "200" } else { "404" }, "response {number}");
    }
    let mut stream = open(address);
    stream.set_nodelay(true).unwrap();
    for byte in request("/latest/meta-data/mac", "Connection: close\r\n") {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(status(&read_to_close(&mut stream)), "200");
}

#[test]
fn half_closed_connection_gets_a_complete_response_or_is_closed() {
    let directory = DevDirectory::new("hostile-half-closed");
    let (_server, addresses) = server(&directory, &["web"]);
    let address = &addresses[0];
    let token = token(address);
    for request in [
        String::new(),
        "GET /latest/meta-da".to_owned(),
        "PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n123".to_owned(),
        format!("GET /latest/meta-data/mac HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n\r\n"),
    ] {
        let mut stream = open(address);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let response = read_to_close(&mut stream);
        assert!(response.is_empty() || response.contains("\r\n\r\n"), "{request:?} got {response:?}");
    }
}

#[test]
fn slow_and_idle_connections_are_closed_while_another_pod_is_served() {
    let directory = DevDirectory::new("hostile-slow");
    let (server, addresses) = server(&directory, &["web", "other"]);
    let before = server.resident_kib();
    let token = token(&addresses[0]);
    served_while(&addresses[1], || {
        let mut clients = Vec::new();
        for number in 0..250 {
            let mut stream = open(&addresses[0]);
            let bytes = match number % 4 {
                0 => String::new(),
                1 => "GET /latest/meta-data/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ".to_owned(),
                2 => "PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx".to_owned(),
                _ => format!("GET /latest/meta-data/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n\r\n"),
            };
            stream.write_all(bytes.as_bytes()).unwrap();
            clients.push(stream);
        }
        // Single bytes do not extend the timeout of a head.
        let (slow, mut others): (Vec<_>, Vec<_>) =
            clients.into_iter().enumerate().partition(|(number, _)| number % 4 == 1);
        let trickle = std::thread::spawn(move || {
            let mut slow = slow.into_iter().map(|(_, stream)| stream).collect::<Vec<_>>();
            for stream in &mut slow {
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            }
            let started = std::time::Instant::now();
            while !slow.is_empty() {
                assert!(started.elapsed() < TIMEOUT, "{} slow connections are still open", slow.len());
                slow.retain_mut(|stream| {
                    let is_open = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
                    stream.write_all(b"x").is_ok() && stream.read(&mut [0; 256]).is_err_and(|error| is_open(&error))
                });
            }
        });
        for (_, stream) in &mut others {
            read_to_close(stream);
        }
        trickle.join().unwrap();
    });
    let more = server.resident_kib().saturating_sub(before);
    assert!(more < 16 * 1024, "250 such connections took {more} KiB");
    assert_eq!(get(&addresses[0], "/latest/meta-data/mac").0, 200, "the pod has its connections back");
}

#[test]
fn connections_over_the_limit_are_closed_immediately() {
    let directory = DevDirectory::new("hostile-many");
    let (_server, addresses) = server(&directory, &["web", "other"]);
    served_while(&addresses[1], || {
        let mut held = (0..256).map(|_| ClientConnection::open(&addresses[0])).collect::<Vec<_>>();
        let status_of = |connection: &mut ClientConnection| connection.request("GET /", &[]).map(|(status, _)| status);
        for connection in &mut held {
            assert_eq!(status_of(connection), Some(401), "connections within the limit stay open");
        }
        for _ in 0..2000 {
            assert_eq!(read_to_close(&mut open(&addresses[0])), "");
        }
        assert_eq!(status_of(held.last_mut().unwrap()), Some(401), "connections within the limit are still open");
    });
}
