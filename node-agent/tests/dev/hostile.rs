//! Clients that mean harm, over sockets: each gets the cloud's own answer or a closed connection, the server's memory
//! stays small, and another pod is served all the while.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{Connection, Folder, Server, address, get, token};

/// Longer than the server's patience with a connection that gets nowhere.
const PATIENCE: Duration = Duration::from_secs(40);

/// A server of pods with these names, each with a profile's default limits.
fn server(folder: &Folder, pods: &[&str]) -> (Server, Vec<String>) {
    let mut text = "
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: all}
spec: {podSelector: {matchLabels: {app: web}}, dialects: [ec2]}
"
    .to_owned();
    for pod in pods {
        text.push_str(&format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, labels: {{app: web}}}}, spec: {{containers: [{{name: a, image: a}}]}}}}\n"
        ));
    }
    folder.write("pods.yaml", &text);
    let (server, report) = Server::start(folder, &["-f", "pods.yaml", "--log", "error"]);
    let addresses = pods.iter().map(|pod| address(&report, &format!("default/{pod}"), "ec2").unwrap());
    (server, addresses.collect())
}

/// Sends bytes on a connection of their own and reads until the server closes it.
fn send(address: &str, bytes: &[u8]) -> String {
    let mut stream = open(address);
    // The server may close before it has read all.
    drop(stream.write_all(bytes));
    rest(&mut stream)
}

fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes until the connection is closed.
fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    match stream.read_to_end(&mut read) {
        Ok(_) => {}
        // What the server did not read makes its kernel send a reset behind the answer.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    String::from_utf8(read).unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("")
}

/// Says that it is done when it is dropped.
struct Done<'d>(&'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for an item of a pod again and again while something else goes on; every answer must be there.
fn served_while(address: &str, something: impl FnOnce()) {
    let (done, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let token = token(address);
            let mut kept = Connection::open(address);
            while !done.load(Ordering::Relaxed) {
                match kept.ask("GET /latest/meta-data/instance-id", std::slice::from_ref(&token)) {
                    Some((200, _)) => served.fetch_add(1, Ordering::Relaxed),
                    Some((429, _)) => 0, // it asks as fast as it can, and has a limit too
                    other => panic!("the other pod got {other:?}"),
                };
            }
        });
        let _done = Done(&done); // even if something panics
        something();
    });
    assert!(served.into_inner() > 0, "the other pod was served");
}

#[test]
fn a_head_that_no_client_sends_gets_the_cloud_s_answer_and_a_closed_connection() {
    let folder = Folder::new("hostile-heads");
    let (_server, addresses) = server(&folder, &["web"]);
    let place = &addresses[0];
    let token = token(place);
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
        let answer = send(place, head.as_bytes());
        let shown = head.chars().take(120).collect::<String>();
        assert_eq!(status(&answer), expected, "{shown:?} got {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{shown:?} got one answer: {answer:?}");
        assert!(!answer.contains("instance-id"), "{shown:?} got a listing");
    }
    let preface = send(place, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(matches!(status(&preface), "" | "400"), "{preface:?}");
}

#[test]
fn pipelined_and_split_requests_are_answered_one_by_one_and_in_order() {
    let folder = Folder::new("hostile-pipelining");
    let (_server, addresses) = server(&folder, &["web"]);
    let place = &addresses[0];
    let token = token(place);
    let request = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n{more}\r\n").into_bytes()
    };
    let mut pipelined = Vec::new();
    for number in 0..200 {
        pipelined.extend(request(if number % 2 == 0 { "/latest/meta-data/mac" } else { "/latest/none" }, ""));
    }
    pipelined.extend(request("/latest/", "Connection: close\r\n"));
    let answers = send(place, &pipelined);
    let statuses = answers.match_indices("HTTP/1.1 ").map(|(at, _)| status(&answers[at..])).collect::<Vec<_>>();
    assert_eq!(statuses.len(), 201);
    for (number, status) in statuses.iter().enumerate() {
        assert_eq!(*status, if number % 2 == 0 { "200" } else { "404" }, "answer {number}");
    }
    let mut stream = open(place);
    stream.set_nodelay(true).unwrap();
    for byte in request("/latest/meta-data/mac", "Connection: close\r\n") {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(status(&rest(&mut stream)), "200");
}

#[test]
fn a_client_that_sends_no_more_gets_its_whole_answer_or_a_closed_connection() {
    let folder = Folder::new("hostile-half-closed");
    let (_server, addresses) = server(&folder, &["web"]);
    let place = &addresses[0];
    let token = token(place);
    for request in [
        String::new(),
        "GET /latest/meta-da".to_owned(),
        "PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n123".to_owned(),
        format!("GET /latest/meta-data/mac HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n\r\n"),
    ] {
        let mut stream = open(place);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.contains("\r\n\r\n"), "{request:?} got {answer:?}");
    }
}

#[test]
fn slow_idle_and_deaf_clients_are_closed_and_another_pod_is_served_meanwhile() {
    let folder = Folder::new("hostile-slow");
    let (server, addresses) = server(&folder, &["web", "other"]);
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
        // A byte now and then does not give a head more time.
        let (slow, mut others): (Vec<_>, Vec<_>) =
            clients.into_iter().enumerate().partition(|(number, _)| number % 4 == 1);
        let trickle = std::thread::spawn(move || {
            let mut slow = slow.into_iter().map(|(_, stream)| stream).collect::<Vec<_>>();
            for stream in &mut slow {
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            }
            let started = std::time::Instant::now();
            while !slow.is_empty() {
                assert!(started.elapsed() < PATIENCE, "{} slow clients were never closed", slow.len());
                slow.retain_mut(|stream| {
                    let is_open = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
                    stream.write_all(b"x").is_ok() && stream.read(&mut [0; 256]).is_err_and(|error| is_open(&error))
                });
            }
        });
        for (_, stream) in &mut others {
            rest(stream);
        }
        trickle.join().unwrap();
    });
    let more = server.resident_kib().saturating_sub(before);
    assert!(more < 16 * 1024, "250 such connections took {more} KiB");
    assert_eq!(get(&addresses[0], "/latest/meta-data/mac").0, 200, "the pod has its connections back");
}

#[test]
fn ten_thousand_idle_connections_are_held_in_little_memory_and_another_pod_is_served_meanwhile() {
    let folder = Folder::new("hostile-idle");
    raise_file_limit();
    let names = (0..41).map(|number| format!("web-{number}")).collect::<Vec<_>>();
    let (server, addresses) = server(&folder, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (other, pods) = addresses.split_last().unwrap();
    let before = server.resident_kib();
    served_while(other, || {
        let connect = |place: &String| (0..250).map(|_| TcpStream::connect(place).unwrap()).collect::<Vec<_>>();
        let clients = pods.iter().flat_map(connect).collect::<Vec<_>>();
        assert_eq!(clients.len(), 10_000);
        // The server has accepted the last ones once it answers on a later connection of the same pods.
        for place in pods {
            assert_eq!(get(place, "/latest/").0, 200);
        }
        let more = server.resident_kib().saturating_sub(before);
        assert!(more < 10_000 * 12, "10,000 idle connections took {more} KiB");
    });
}

#[test]
fn one_pod_s_connections_over_its_limit_are_closed_at_once() {
    let folder = Folder::new("hostile-many");
    let (_server, addresses) = server(&folder, &["web", "other"]);
    served_while(&addresses[1], || {
        let mut held = (0..256).map(|_| Connection::open(&addresses[0])).collect::<Vec<_>>();
        let refused = |connection: &mut Connection| connection.ask("GET /", &[]).map(|(status, _)| status);
        for connection in &mut held {
            assert_eq!(refused(connection), Some(401), "those within the limit are held");
        }
        for _ in 0..2000 {
            assert_eq!(rest(&mut open(&addresses[0])), "");
        }
        assert_eq!(refused(held.last_mut().unwrap()), Some(401), "and are held still");
    });
}

#[test]
fn tokens_without_end_cost_no_memory_and_another_pod_is_served_meanwhile() {
    let folder = Folder::new("hostile-tokens");
    let (server, addresses) = server(&folder, &["web", "other"]);
    let ask = |number: usize| {
        for _ in 0..number {
            let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 21600".to_owned();
            let answer = Connection::open(&addresses[0]).ask("PUT /latest/api/token", &[ttl]);
            assert!(matches!(answer, Some((200 | 429, _))), "{answer:?}");
        }
    };
    ask(100);
    let before = server.resident_kib();
    served_while(&addresses[1], || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ask(250));
            }
        });
    });
    let more = server.resident_kib().saturating_sub(before);
    assert!(more < 4 * 1024, "2,000 tokens took {more} KiB");
}

/// As many open files as this process may have; the server raises its own limit.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 11_000, "this test needs 11,000 open files; the hard limit is {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
