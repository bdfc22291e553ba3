//! System calls without a safe wrapper: file descriptors in a message, adoption of a netlink socket, the interface of an
//! IPv4 connection, the size of a send queue, and the cookie of a network namespace. With [`bpf`], the only unsafe code of the
//! workspace.
#![allow(unsafe_code)]

pub(crate) mod bpf;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::size_of;
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use netlink_sys::{AsyncSocket, TokioSocket};
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Maximum number of file descriptors with one line.
const MAX_FDS: usize = 8;

/// Maximum length of a received line in bytes.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Sends a line of text with file descriptors. The line break is added.
///
/// # Errors
/// If the peer has closed the socket, or a write times out.
pub fn send_line(socket: &UnixStream, line: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw = fds.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if fds.is_empty() { &control[..0] } else { &control[..] };
    let bytes = format!("{line}\n");
    let parts = [IoSlice::new(bytes.as_bytes())];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a line of text with its file descriptors. The peer must send nothing after the line.
///
/// # Errors
/// If the peer closes the socket before the end of the line, the line is too long or not UTF-8, or a read times out.
pub fn receive_line(socket: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut buffer = [0; 512];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel created these descriptors for this process when it delivered the message. No other
                // code knows their numbers, so each one gets exactly one owner here.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        match message.bytes {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => line.extend_from_slice(buffer.get(..bytes).unwrap_or_default()),
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
    }
    line.pop();
    let line = String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((line, fds))
}

/// Registers a netlink socket with the tokio runtime.
///
/// # Errors
/// If the descriptor is not a netlink socket.
///
/// # Panics
/// Outside a tokio runtime, or if the runtime cannot register another descriptor.
pub(crate) fn adopt_netlink(socket: OwnedFd) -> io::Result<impl AsyncSocket + Send> {
    let reference = socket2::SockRef::from(&socket);
    if reference.domain()? != socket2::Domain::from(libc::AF_NETLINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a netlink socket"));
    }
    reference.set_nonblocking(true)?;
    // SAFETY: `into_raw_fd` gives up the ownership, so the new socket is the only owner of the descriptor.
    Ok(unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) })
}

/// Returns the index of the interface at which the handshake of an AF_INET connection arrived.
///
/// # Errors
/// If the kernel does not report it.
pub(crate) fn arrival_interface_v4(stream: &TcpStream) -> io::Result<u32> {
    /// A control message with its `in_pktinfo`. Source: cmsg(3), ip(7).
    #[repr(C)]
    struct PacketInfo {
        header: libc::cmsghdr,
        info: libc::in_pktinfo,
    }
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Ipv4PacketInfo, &true)?;
    // SAFETY: all fields are integers or pointers, for which zero is a valid value.
    let mut packet = unsafe { std::mem::zeroed::<PacketInfo>() };
    let mut length = libc::socklen_t::try_from(size_of::<PacketInfo>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `packet`, which has this size, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_IP, IP_PKTOPTIONS, (&raw mut packet).cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if packet.header.cmsg_level != libc::IPPROTO_IP || packet.header.cmsg_type != libc::IP_PKTINFO {
        return Err(io::Error::other("the kernel did not report the interface of the connection"));
    }
    u32::try_from(packet.info.ipi_ifindex).map_err(io::Error::other)
}

/// Returns the number of bytes in the send queue of a stream socket: those that the peer's kernel has not acknowledged
/// (`SIOCOUTQ`).
///
/// # Errors
/// If the kernel does not report it.
pub fn send_queue_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int to the pointer, which is valid for it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    nix::errno::Errno::result(result)?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Returns the cookie of a socket's network namespace: a number that no other namespace has until the next boot.
///
/// # Errors
/// If the kernel does not report it, such as before Linux 5.14.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    /// Source: asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has this size, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}

/// Socket option with the control messages of a TCP connection. Source: linux/in.h.
const IP_PKTOPTIONS: libc::c_int = 9;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn received_descriptor_refers_to_the_sent_file() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut write, read) = UnixStream::pair().unwrap();
        send_line(&near, "one file", &[read.as_fd()]).unwrap();
        let (line, received) = receive_line(&far).unwrap();
        assert_eq!((line.as_str(), received.len()), ("one file", 1));
        assert_ne!(received[0].as_raw_fd(), read.as_raw_fd());
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(received.into_iter().next().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn line_of_a_closed_peer_or_over_the_limit_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(b"no line break").unwrap();
        drop(near);
        assert_eq!(receive_line(&far).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&[b'x'; 2 * MAX_LINE_BYTES]).unwrap();
        assert_eq!(receive_line(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn connection_over_ipv4_loopback_arrives_at_interface_1() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(arrival_interface_v4(&accepted).unwrap(), 1);
    }
}
