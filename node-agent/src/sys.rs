//! System calls without a safe wrapper: file descriptors in a message. The only unsafe code of the workspace.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Maximum number of file descriptors in one message.
pub(crate) const MAX_FDS: usize = 8;

/// Sends file descriptors in a message of one byte.
pub(crate) fn send_fds(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw = fds.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>();
    let control = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(&[1])], &control, MsgFlags::empty(), None)?;
    Ok(())
}

/// Receives the file descriptors of [`send_fds`].
///
/// # Errors
/// If the peer has closed the socket.
pub(crate) fn receive_fds(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel created these descriptors for this process when it delivered the message. No other
            // code knows their numbers, so each one gets exactly one owner here.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(fds)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn received_descriptor_refers_to_the_sent_file() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut write, read) = UnixStream::pair().unwrap();
        send_fds(&near, &[read.as_fd()]).unwrap();
        let received = receive_fds(&far).unwrap();
        assert_eq!(received.len(), 1);
        assert_ne!(received[0].as_raw_fd(), read.as_raw_fd());
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(received.into_iter().next().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn closed_peer_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive_fds(&far).is_err());
    }
}
