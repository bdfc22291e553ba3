//! Charges a connection for the memory of its buffers, and frees the kernel's part when the connection ends.

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::edge::memory::{BufferState, ConnectionCharge};

/// Responses up to this size are sent from one buffer, which is faster than a vectored write. Credentials have about 1.7 KiB.
const MAX_COPIED_BYTES: usize = 2048;

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
