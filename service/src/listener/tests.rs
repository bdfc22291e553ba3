use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::*;

/// A listener whose accept results are fixed. After the last one, accept never returns.
struct ScriptedListener(Mutex<VecDeque<io::Result<u32>>>);

impl ScriptedListener {
    fn new(results: impl IntoIterator<Item = io::Result<u32>>) -> Self {
        Self(Mutex::new(results.into_iter().collect()))
    }
}

impl Listener for ScriptedListener {
    type Connection = u32;

    fn configure(&self, _: i32) -> io::Result<()> {
        Ok(())
    }

    async fn accept(&self) -> io::Result<u32> {
        let next = self.0.lock().unwrap().pop_front();
        match next {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }
}

fn no_descriptor() -> io::Result<u32> {
    Err(io::Error::from_raw_os_error(24)) // EMFILE
}

#[tokio::test(start_paused = true)]
async fn accept_errors_are_retried_with_backoff_up_to_one_second() {
    let mut script = (0..7).map(|_| no_descriptor()).collect::<Vec<_>>();
    script.push(Ok(1));
    script.push(no_descriptor());
    script.push(Ok(2));
    let (accepted_tx, mut accepted_rx) = mpsc::unbounded_channel();
    let started = Instant::now();
    let handle = move |number| {
        accepted_tx.send((number, started.elapsed().as_millis())).unwrap();
        std::future::ready(())
    };
    let stop = CancellationToken::new();
    Acceptor::default().spawn(ScriptedListener::new(script), None, stop, handle).unwrap();
    let first = 50 + 100 + 200 + 400 + 800 + 1000 + 1000;
    assert_eq!(accepted_rx.recv().await, Some((1, first)));
    assert_eq!(accepted_rx.recv().await, Some((2, first + 50)), "the delay is reset after a success");
}

#[tokio::test(start_paused = true)]
async fn aborted_connection_does_not_delay_the_next_one() {
    let script = [Err(io::ErrorKind::ConnectionAborted.into()), Ok(1)];
    let (accepted_tx, mut accepted_rx) = mpsc::unbounded_channel();
    let started = Instant::now();
    let handle = move |_| {
        accepted_tx.send(started.elapsed()).unwrap();
        std::future::ready(())
    };
    Acceptor::default().spawn(ScriptedListener::new(script), None, CancellationToken::new(), handle).unwrap();
    assert_eq!(accepted_rx.recv().await, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn connections_over_the_limit_are_closed_until_one_ends() {
    let (handled_tx, mut handled_rx) = mpsc::unbounded_channel();
    let (end, acceptor, stop) = (CancellationToken::new(), Acceptor::default(), CancellationToken::new());
    let ended = end.clone();
    let handle = move |number| {
        handled_tx.send(number).unwrap();
        ended.clone().cancelled_owned()
    };
    let script = [Ok(1), Ok(2), Ok(3), no_descriptor(), Ok(4)];
    acceptor.spawn(ScriptedListener::new(script), Some(2), stop, handle).unwrap();
    assert_eq!((handled_rx.recv().await, handled_rx.recv().await), (Some(1), Some(2)));
    tokio::task::yield_now().await;
    assert!(handled_rx.try_recv().is_err(), "the third connection is closed");
    end.cancel(); // while the loop waits after the error
    assert_eq!(handled_rx.recv().await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_open_connections_up_to_the_limit() {
    let (acceptor, stop, end) = (Acceptor::default(), CancellationToken::new(), CancellationToken::new());
    let (handled_tx, mut handled_rx) = mpsc::unbounded_channel();
    let ended = end.clone();
    let handle = move |number| {
        handled_tx.send(number).unwrap();
        ended.clone().cancelled_owned()
    };
    let accepting = acceptor.spawn(ScriptedListener::new([Ok(1)]), None, stop.clone(), handle).unwrap();
    assert_eq!(handled_rx.recv().await, Some(1));
    stop.cancel();
    accepting.await.unwrap();
    let limit = Duration::from_secs(5);
    assert!(acceptor.drain(limit).await.is_err(), "the connection is still open");
    end.cancel();
    assert!(acceptor.drain(limit).await.is_ok());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn kernel_memory_of_an_accepted_connection_is_limited() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.configure(BACKLOG).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (_client, server) = tokio::join!(client, Listener::accept(&listener));
    let server = server.unwrap();
    let socket = socket2::SockRef::from(&server.stream);
    assert_eq!(socket.send_buffer_size().unwrap(), 2 * SOCKET_BUFFER_BYTES);
    assert_eq!(socket.recv_buffer_size().unwrap(), 2 * SOCKET_BUFFER_BYTES);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_TIMEOUT));
}

#[tokio::test]
async fn adopted_listener_serves_connections() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = adopt(listener).unwrap();
    let handle = |mut connection: TcpConnection| async move { connection.stream.write_all(b"x").await.unwrap() };
    let stop = CancellationToken::new();
    let accepting = Acceptor::default().spawn(listener, None, stop.clone(), handle).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    stop.cancel();
    accepting.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn accepted_tcp_connection_sends_without_delay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Listener::configure(&listener, 8).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, Listener::accept(&listener));
    assert!(accepted.unwrap().stream.nodelay().unwrap());
    drop(client.unwrap());
}
