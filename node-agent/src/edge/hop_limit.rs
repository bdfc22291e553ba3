//! Limits the hops of a response. The IPv4 TTL or IPv6 hop limit of the socket is set before the first byte of a response
//! with a token. It is never raised on that connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use podmeta_metadata::options::HopLimit;
use podmeta_metadata::request::IpFamily;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::edge::metered::SendBuffer;

/// A stream whose packets can be limited to a number of hops.
pub trait SetHopLimit {
    /// Limits all later packets, including retransmissions and the FIN.
    ///
    /// # Errors
    /// If the kernel rejects it. Then nothing may be sent.
    fn set_hop_limit(&self, family: IpFamily, hops: u8) -> io::Result<()>;
}

impl SetHopLimit for TcpStream {
    fn set_hop_limit(&self, family: IpFamily, hops: u8) -> io::Result<()> {
        let socket = socket2::SockRef::from(self);
        match family {
            IpFamily::Ipv4 => socket.set_ttl_v4(u32::from(hops)),
            IpFamily::Ipv6 => socket.set_unicast_hops_v6(u32::from(hops)),
        }
    }
}

/// Does nothing, because a Unix socket does not leave the node.
#[cfg(unix)]
impl SetHopLimit for tokio::net::UnixStream {
    fn set_hop_limit(&self, _: IpFamily, _: u8) -> io::Result<()> {
        Ok(())
    }
}

/// The hop limit of a connection's next responses. 0 until a token is issued.
#[derive(Debug, Default)]
pub(super) struct ResponseHopLimit(AtomicU8);

impl ResponseHopLimit {
    /// Lowers the limit. A higher limit has no effect.
    pub(super) fn lower(&self, limit: HopLimit) {
        let lower = |current: u8| (current == 0 || limit.get() < current).then_some(limit.get());
        let _is_lower_already = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower);
    }
}

/// A stream that sets its hop limit before it writes.
pub(super) struct HopLimitedStream<I> {
    io: I,
    family: IpFamily,
    hop_limit: Arc<ResponseHopLimit>,
    current: u8,
}

impl<I: SetHopLimit> HopLimitedStream<I> {
    pub(super) fn new(io: I, family: IpFamily, hop_limit: Arc<ResponseHopLimit>) -> Self {
        Self { io, family, hop_limit, current: 0 }
    }

    fn apply_hop_limit(&mut self) -> io::Result<()> {
        let wanted = self.hop_limit.0.load(Ordering::Acquire);
        if wanted != self.current {
            self.io.set_hop_limit(self.family, wanted)?;
            self.current = wanted;
        }
        Ok(())
    }
}

impl<I: SendBuffer> SendBuffer for HopLimitedStream<I> {
    fn buffered_bytes(&self) -> usize {
        self.io.buffered_bytes()
    }

    fn reset_on_close(&self) {
        self.io.reset_on_close();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for HopLimitedStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + SetHopLimit + Unpin> AsyncWrite for HopLimitedStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.apply_hop_limit()?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.apply_hop_limit()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn socket_hop_limit_is_set_before_a_write_and_is_only_lowered() {
        for (address, family) in [("127.0.0.1:0", IpFamily::Ipv4), ("[::1]:0", IpFamily::Ipv6)] {
            let (local, mut remote) = pair(address).await;
            let hop_limit = Arc::new(ResponseHopLimit::default());
            let mut stream = HopLimitedStream::new(local, family, Arc::clone(&hop_limit));
            let socket_limit = |stream: &HopLimitedStream<TcpStream>| {
                let socket = socket2::SockRef::from(&stream.io);
                match family {
                    IpFamily::Ipv4 => socket.ttl_v4().unwrap(),
                    IpFamily::Ipv6 => socket.unicast_hops_v6().unwrap(),
                }
            };
            let default = socket_limit(&stream);
            stream.write_all(b"x").await.unwrap();
            assert_eq!(socket_limit(&stream), default, "a response without a token keeps the default");
            for (wanted, expected) in [(3, 3), (1, 1), (64, 1)] {
                hop_limit.lower(HopLimit::try_from(wanted).unwrap());
                assert_eq!(stream.write_vectored(&[io::IoSlice::new(b"x")]).await.unwrap(), 1);
                assert_eq!(socket_limit(&stream), expected, "after a token with hop limit {wanted}");
            }
            drop(stream);
            let mut received = Vec::new();
            remote.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, b"xxxx");
        }
    }
}
