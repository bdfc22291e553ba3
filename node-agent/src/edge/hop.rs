//! Sets how far a reply travels: the IP TTL or IPv6 hop limit of a connection becomes the profile's before the first
//! byte of a reply that carries a token, and is never raised again on that connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use podmeta_metadata::options::HopLimit;
use podmeta_metadata::request::Family;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose packets can be limited to a number of hops.
pub trait SetHopLimit {
    /// Limits all packets that leave from now on, retransmissions and the FIN too.
    ///
    /// # Errors
    /// If the kernel refuses; nothing may be sent then.
    fn set_hop_limit(&self, family: Family, hops: u8) -> io::Result<()>;
}

impl SetHopLimit for TcpStream {
    fn set_hop_limit(&self, family: Family, hops: u8) -> io::Result<()> {
        let socket = socket2::SockRef::from(self);
        match family {
            Family::Ipv4 => socket.set_ttl_v4(u32::from(hops)),
            Family::Ipv6 => socket.set_unicast_hops_v6(u32::from(hops)),
        }
    }
}

/// A Unix socket leaves the node for nowhere.
#[cfg(unix)]
impl SetHopLimit for tokio::net::UnixStream {
    fn set_hop_limit(&self, _: Family, _: u8) -> io::Result<()> {
        Ok(())
    }
}

/// The hop limit that a connection's replies must have from now on; none, until a token is given.
#[derive(Debug, Default)]
pub(super) struct Hops(AtomicU8);

impl Hops {
    /// Lowers the limit. It is never raised: of two tokens on one connection the nearer limit holds.
    pub(super) fn limit(&self, limit: HopLimit) {
        let lower = |set: u8| (set == 0 || limit.get() < set).then_some(limit.get());
        let _near_enough = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower);
    }
}

/// A connection that sets its hop limit before it writes.
pub(super) struct Limited<I> {
    io: I,
    family: Family,
    hops: Arc<Hops>,
    set: u8,
}

impl<I: SetHopLimit> Limited<I> {
    pub(super) fn new(io: I, family: Family, hops: Arc<Hops>) -> Self {
        Self { io, family, hops, set: 0 }
    }

    fn before_write(&mut self) -> io::Result<()> {
        let wanted = self.hops.0.load(Ordering::Acquire);
        if wanted != self.set {
            self.io.set_hop_limit(self.family, wanted)?;
            self.set = wanted;
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Limited<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + SetHopLimit + Unpin> AsyncWrite for Limited<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write()?;
        Pin::new(&mut self.io).poll_write(cx, buf)
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
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn the_kernel_s_hop_limit_is_the_token_s_before_a_byte_is_written_and_only_falls() {
        for (address, family) in [("127.0.0.1:0", Family::Ipv4), ("[::1]:0", Family::Ipv6)] {
            let (near, mut far) = pair(address).await;
            let hops = Arc::new(Hops::default());
            let mut limited = Limited::new(near, family, Arc::clone(&hops));
            let kernels = |limited: &Limited<TcpStream>| {
                let socket = socket2::SockRef::from(&limited.io);
                match family {
                    Family::Ipv4 => socket.ttl_v4().unwrap(),
                    Family::Ipv6 => socket.unicast_hops_v6().unwrap(),
                }
            };
            let before = kernels(&limited);
            limited.write_all(b"x").await.unwrap();
            assert_eq!(kernels(&limited), before, "a reply without a token keeps the default");
            for (asked, set) in [(3, 3), (1, 1), (64, 1)] {
                hops.limit(HopLimit::try_from(asked).unwrap());
                limited.write_all(b"x").await.unwrap();
                assert_eq!(kernels(&limited), set, "after a token of {asked}");
            }
            drop(limited);
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"xxxx");
        }
    }
}
