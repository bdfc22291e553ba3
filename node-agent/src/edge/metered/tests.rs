use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use super::*;
use crate::edge::limit::{ConnectionLimiter, PodKey};
use crate::edge::memory::MemoryBudget;

/// Size of the client's receive buffer. The kernel holds the rest of a longer response for the server.
const RECEIVE_BUFFER_BYTES: u32 = 4096;

async fn pair() -> (MeteredStream<TcpStream>, TcpStream) {
    pair_of(&MemoryBudget::default(), ConnectionLimiter::default().key()).await
}

/// Connects to a server that charges `budget` for `pod`.
async fn pair_of(budget: &MemoryBudget, pod: PodKey) -> (MeteredStream<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    let client = client.connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (MeteredStream::new(server.unwrap().0, budget.open(pod, Instant::now())), client.unwrap())
}

/// Writes until the client's window is full. Returns the number of bytes.
async fn fill(stream: &mut MeteredStream<TcpStream>) -> usize {
    let (chunk, mut written) = ([7; 4096], 0);
    std::future::poll_fn(|cx| {
        let bufs = [io::IoSlice::new(&chunk[..100]), io::IoSlice::new(&chunk)];
        while let Poll::Ready(length) = Pin::new(&mut *stream).poll_write_vectored(cx, &bufs) {
            written += length.unwrap();
        }
        Poll::Ready(written)
    })
    .await
}

#[tokio::test]
async fn connection_is_charged_for_its_head_and_for_an_unread_response() {
    let (mut server, mut client) = pair().await;
    assert_eq!(server.charge.state(), BufferState::Idle);
    client.write_all(b"GET").await.unwrap();
    server.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(server.charge.state(), BufferState::Receiving);
    let written = fill(&mut server).await;
    assert_eq!(server.charge.state(), BufferState::Unread);
    let (mut received, write) = (vec![0; written + 1], server.write_all(b"7"));
    let (read, written) = tokio::join!(client.read_exact(&mut received), write);
    assert!(read.is_ok() && written.is_ok());
    assert_eq!(server.charge.state(), BufferState::Sent, "the client reads again");
}

#[tokio::test]
async fn connection_is_charged_for_a_sent_response_until_its_client_has_received_it() {
    for (length, writes) in [(16 * 1024, 1), (1024, 5)] {
        let (mut server, mut client) = pair().await;
        client.write_all(b"GET").await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();
        for _ in 0..writes {
            assert_eq!(server.charge.state(), BufferState::Receiving);
            server.write_all(&vec![7; length]).await.unwrap();
        }
        assert_eq!(server.charge.state(), BufferState::Sent, "{writes} writes of {length} bytes");
        server.write_all(b"7").await.unwrap();
        assert_eq!(server.charge.state(), BufferState::Sent, "a short write does not end it");
        client.read_exact(&mut vec![0; length * writes + 1]).await.unwrap();
        client.write_all(b"G").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(server.charge.state(), BufferState::Receiving);
        server.write_all(b"7").await.unwrap();
        assert_eq!(server.charge.state(), BufferState::Receiving, "a short response");
    }
}

/// Bytes of a client that does not receive its responses do not lower the charge.
#[tokio::test]
async fn connection_stays_charged_while_its_client_sends_bytes_and_receives_nothing() {
    for (length, responses) in [(64 * 1024, 1), (1024, 64)] {
        let (mut server, mut client) = pair().await;
        for _ in 0..responses {
            client.write_all(b"G").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            server.write_all(&vec![7; length]).await.unwrap();
        }
        for _ in 0..3 {
            client.write_all(b"G").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            assert_eq!(server.charge.state(), BufferState::Sent, "{responses} responses of {length} bytes");
        }
    }
}

#[tokio::test]
async fn eviction_drops_a_sent_response() {
    let (budget, pod) = (MemoryBudget::default(), ConnectionLimiter::default().key());
    let (mut server, mut client) = pair_of(&budget, pod).await;
    server.write_all(&[7; 16 * 1024]).await.unwrap();
    let _others = (0..3000).map(|_| budget.open(pod, Instant::now())).collect::<Vec<_>>();
    drop(server);
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn closing_drops_bytes_that_the_client_does_not_read() {
    let (mut server, mut client) = pair().await;
    fill(&mut server).await;
    drop(server);
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn closing_keeps_a_response_that_was_written_completely() {
    let (mut server, mut client) = pair().await;
    let response = [7; 16 * 1024];
    server.write_all(&response).await.unwrap();
    drop(server);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, response);
}

#[test]
fn short_buffers_are_copied_into_one() {
    let mut copied = [0; MAX_COPIED_BYTES];
    let bufs = [io::IoSlice::new(b"head"), io::IoSlice::new(b"body")];
    assert_eq!(copy(&bufs, &mut copied), Some(&b"headbody"[..]));
    let (most, more) = (vec![1; MAX_COPIED_BYTES - 4], vec![1; MAX_COPIED_BYTES - 3]);
    assert!(copy(&[io::IoSlice::new(b"head"), io::IoSlice::new(&most)], &mut copied).is_some());
    assert!(copy(&[io::IoSlice::new(b"head"), io::IoSlice::new(&more)], &mut copied).is_none());
}
