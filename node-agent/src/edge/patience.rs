//! Ends a connection that gets nowhere: one that is idle, sends its head or its body slowly, or does not read its answer.
//! All of these are one rule: so long after the last byte of an answer was taken, or after the start, it is over. hyper's
//! own timer for heads is set and cleared for each request; this one is set once a connection and looked at when it rings.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a connection may go without a byte of an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that ends when it gets nowhere.
pub(super) struct Patient<I> {
    io: I,
    answered: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<I> Patient<I> {
    pub(super) fn new(io: I) -> Self {
        let now = Instant::now();
        Self { io, answered: now, alarm: Box::pin(sleep_until(now + PATIENCE)) }
    }

    /// What waits is an error once patience is over.
    fn or_over<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        while polled.is_pending() && self.alarm.as_mut().poll(cx).is_ready() {
            let end = self.answered + PATIENCE;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(end);
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.or_over(cx, read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if written.is_ready() {
            self.answered = Instant::now();
        }
        self.or_over(cx, written)
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
    async fn a_peer_that_does_not_read_is_given_up() {
        let (near, _far) = tokio::io::duplex(4);
        let (mut patient, started) = (Patient::new(near), Instant::now());
        let error = patient.write_all(&[0; 5]).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_byte_after_byte_and_gets_no_answer_is_given_up() {
        let (near, mut far) = tokio::io::duplex(4096);
        let (mut patient, started) = (Patient::new(near), Instant::now());
        let peer = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let error = loop {
            match patient.read_u8().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
        drop(patient);
        peer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_starts_the_time_anew() {
        let (near, _far) = tokio::io::duplex(4096);
        let (mut patient, started) = (Patient::new(near), Instant::now());
        for _ in 0..5 {
            tokio::time::sleep(PATIENCE / 2).await;
            patient.write_all(b"answer").await.unwrap();
        }
        patient.read_u8().await.unwrap_err();
        assert_eq!(started.elapsed(), PATIENCE * 7 / 2);
    }
}
