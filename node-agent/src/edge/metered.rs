//! Charges a connection for the memory of its buffers, and frees the kernel's part when the connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::edge::memory::{BufferState, ConnectionCharge};

/// Responses up to this size are sent from one buffer, which is faster than a vectored write.
const MAX_COPIED_BYTES: usize = 1024;

/// Bytes in the send buffer of the kernel that are charged as [`BufferState::Sent`] if there are more.
const MAX_UNCHARGED_BYTES: usize = 4096;

/// Number of written bytes after which the size of the send buffer is read again, when the client sends bytes. Each read
/// costs a system call.
const MAX_UNCHECKED_BYTES: usize = MAX_UNCHARGED_BYTES / 2;

/// A stream whose written bytes stay in a buffer of the kernel until the client receives them.
pub trait SendBuffer {
    /// Returns the number of bytes in the buffer, or `usize::MAX` if it is unknown.
    fn buffered_bytes(&self) -> usize;

    /// Closes with a reset, which drops all unsent bytes. Without it the kernel keeps them for a client that does not read.
    fn reset_on_close(&self);
}

/// Returns the number of bytes that the kernel holds for the peer of a socket.
#[cfg(target_os = "linux")]
fn buffered_bytes(socket: &impl std::os::fd::AsFd) -> usize {
    podmeta_link::sys::send_queue_bytes(socket.as_fd()).unwrap_or(usize::MAX)
}

#[cfg(not(target_os = "linux"))]
fn buffered_bytes<S>(_: &S) -> usize {
    usize::MAX
}

impl SendBuffer for TcpStream {
    fn buffered_bytes(&self) -> usize {
        buffered_bytes(self)
    }

    fn reset_on_close(&self) {
        // It fails only if the connection has already ended.
        drop(socket2::SockRef::from(self).set_linger(Some(std::time::Duration::ZERO)));
    }
}

#[cfg(unix)]
impl SendBuffer for tokio::net::UnixStream {
    fn buffered_bytes(&self) -> usize {
        buffered_bytes(self)
    }

    /// Does nothing, because the kernel frees the unread bytes of a closed Unix socket with its other end.
    fn reset_on_close(&self) {}
}

/// A stream that is charged for its buffers. It fails if the connection is evicted.
pub(super) struct MeteredStream<I: SendBuffer> {
    io: I,
    charge: ConnectionCharge,
    /// Upper bound of the bytes in the send buffer: those of its last check, and those written since then.
    sent: usize,
}

impl<I: SendBuffer> MeteredStream<I> {
    pub(super) fn new(io: I, charge: ConnectionCharge) -> Self {
        Self { io, charge, sent: 0 }
    }

    /// Charges the state after a write.
    fn charge_write(&mut self, cx: &Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let state = self.charge.state();
        let charged = match &written {
            Poll::Pending => BufferState::Unread,
            Poll::Ready(Ok(length)) => {
                self.sent = self.sent.saturating_add(*length);
                match state {
                    _ if self.sent > MAX_UNCHARGED_BYTES => BufferState::Sent,
                    BufferState::Unread => BufferState::Receiving,
                    BufferState::Idle | BufferState::Receiving | BufferState::Sent => state,
                }
            }
            Poll::Ready(Err(_)) => state,
        };
        self.charge_state(charged)?;
        self.charge.poll_or_evicted(cx, written)
    }

    /// Charges the state after bytes of the client were read. A client can send bytes without receiving its responses, so
    /// only the size of the send buffer lowers the charge.
    fn charge_read(&mut self) -> io::Result<()> {
        if self.charge.state() == BufferState::Unread {
            return Ok(());
        }
        if self.sent > MAX_UNCHECKED_BYTES {
            self.sent = self.io.buffered_bytes();
        }
        let sent = self.sent > MAX_UNCHARGED_BYTES;
        self.charge_state(if sent { BufferState::Sent } else { BufferState::Receiving })
    }

    fn charge_state(&mut self, state: BufferState) -> io::Result<()> {
        if self.charge.state() == state { Ok(()) } else { self.charge.set(state) }
    }
}

impl<I: SendBuffer> Drop for MeteredStream<I> {
    fn drop(&mut self) {
        let is_reset = match self.charge.state() {
            BufferState::Idle | BufferState::Receiving => false,
            // The client may still receive a complete response, unless its memory is needed.
            BufferState::Sent => self.charge.eviction().is_evicted(),
            BufferState::Unread => true,
        };
        if is_reset {
            self.io.reset_on_close();
        }
    }
}

impl<I: AsyncRead + SendBuffer + Unpin> AsyncRead for MeteredStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.charge_read()?;
        }
        self.charge.poll_or_evicted(cx, read)
    }
}

impl<I: AsyncWrite + SendBuffer + Unpin> AsyncWrite for MeteredStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.charge_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut copied = [0; MAX_COPIED_BYTES];
        let written = match copy(bufs, &mut copied) {
            Some(bytes) => Pin::new(&mut self.io).poll_write(cx, bytes),
            None => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        self.charge_write(cx, written)
    }

    /// Returns true even for a stream without vectored writes: hyper then keeps a reference to the body instead of a
    /// copy.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Copies all buffers into one, or returns `None` if they do not fit.
fn copy<'c>(bufs: &[io::IoSlice<'_>], copied: &'c mut [u8; MAX_COPIED_BYTES]) -> Option<&'c [u8]> {
    let mut end = 0;
    for buf in bufs {
        copied.get_mut(end..end + buf.len())?.copy_from_slice(buf);
        end += buf.len();
    }
    copied.get(..end)
}

#[cfg(test)]
mod tests {
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
}
