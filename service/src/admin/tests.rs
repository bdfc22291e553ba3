use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::*;

/// Starts an admin port on all loopback addresses. Returns its port.
async fn start(stop: &CancellationToken) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Admin::new(Registry::default()).serve(listener, &Acceptor::default(), stop.clone()).unwrap();
    port
}

async fn connect(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap()
}

async fn status(stream: &mut TcpStream) -> Option<String> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await.ok()?;
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.ok()?;
    Some(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_until_others_end() {
    let stop = CancellationToken::new();
    let port = start(&stop).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTION_LIMITS.total {
        let mut stream = connect(port).await;
        assert_eq!(status(&mut stream).await.as_deref(), Some("HTTP/1.1 200 OK"));
        open.push(stream);
    }
    assert_eq!(status(&mut connect(port).await).await, None);
    open.pop();
    let reconnected = async { while status(&mut connect(port).await).await.is_none() {} };
    timeout(Duration::from_secs(20), reconnected).await.unwrap();
    stop.cancel();
    let mut rest = Vec::new();
    open[0].read_to_end(&mut rest).await.unwrap();
}

/// A pod in the network of its node has the address of the kubelet.
#[tokio::test]
async fn open_connections_of_an_address_do_not_block_its_new_ones() {
    let registry = ConnectionRegistry::new(CONNECTION_LIMITS);
    let router = Admin::new(Registry::default()).router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..=CONNECTION_LIMITS.per_address {
        let mut client = connect(listener.local_addr().unwrap().port()).await;
        let (stream, _) = listener.accept().await.unwrap();
        let guard = registry.register_or_evict([10, 0, 0, 1].into());
        tokio::spawn(serve_registered(guard, serve_connection(stream, router.clone())));
        assert_eq!(status(&mut client).await.as_deref(), Some("HTTP/1.1 200 OK"));
        clients.push(client);
    }
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), clients[0].read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn connection_of_a_client_that_reads_nothing_ends() {
    let (listener, connecting) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpSocket::new_v4().unwrap());
    connecting.set_recv_buffer_size(4096).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = connecting.connect(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let body = "x".repeat(64 * 1024 * 1024);
    let router = Router::new().route("/", get(async move || body));
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let started = tokio::time::Instant::now();
    serve_connection(stream, router).await;
    assert_eq!(started.elapsed(), CONNECTION_AGE + LAST_REQUEST_TIMEOUT);
}
