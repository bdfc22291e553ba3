//! Closes a connection that makes no progress: idle, sending its head or body slowly, or not reading its response.
//!
//! The deadline is 20 s after the last write, or after the start. hyper's own header timeout sets a timer for each
//! request; this one sets a timer once per connection and checks the deadline when it fires.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest time between two writes of response bytes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A stream that fails with `TimedOut` if it makes no progress.
pub(super) struct IdleTimeout<I> {
    io: I,
    last_write: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<I> IdleTimeout<I> {
    pub(super) fn new(io: I) -> Self {
        let now = Instant::now();
        Self { io, last_write: now, timer: Box::pin(sleep_until(now + IDLE_TIMEOUT)) }
    }

    /// Moves the deadline after a write that is not pending.
    fn record_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.last_write = Instant::now();
        }
        self.poll_or_timeout(cx, written)
    }

    /// Returns an error if `polled` is pending after the deadline.
    fn poll_or_timeout<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        while polled.is_pending() && self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.last_write + IDLE_TIMEOUT;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for IdleTimeout<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.poll_or_timeout(cx, read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for IdleTimeout<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.record_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.record_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_read_times_out() {
        let (near, _far) = tokio::io::duplex(4);
        let (mut stream, started) = (IdleTimeout::new(near), Instant::now());
        let error = stream.write_all(&[0; 5]).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, IDLE_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_sends_slowly_without_a_response_times_out() {
        let (near, mut far) = tokio::io::duplex(4096);
        let (mut stream, started) = (IdleTimeout::new(near), Instant::now());
        let client = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let error = loop {
            match stream.read_u8().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, IDLE_TIMEOUT));
        drop(stream);
        client.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn write_resets_the_deadline() {
        let (near, _far) = tokio::io::duplex(4096);
        let (mut stream, started) = (IdleTimeout::new(near), Instant::now());
        for _ in 0..5 {
            tokio::time::sleep(IDLE_TIMEOUT / 2).await;
            stream.write_all(b"resp").await.unwrap();
            tokio::time::sleep(IDLE_TIMEOUT / 2).await;
            assert_eq!(stream.write_vectored(&[io::IoSlice::new(b"onse")]).await.unwrap(), 4);
        }
        stream.read_u8().await.unwrap_err();
        assert_eq!(started.elapsed(), IDLE_TIMEOUT * 6);
    }
}
