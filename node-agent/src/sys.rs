//! The one place for system calls that have no safe wrapper: taking file descriptors out of a message.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most file descriptors in one message.
pub(crate) const MAX_FDS: usize = 8;

/// Sends file descriptors, and one byte to carry them.
pub(crate) fn send_fds(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw = fds.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>();
    let carried = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(&[1])], &carried, MsgFlags::empty(), None)?;
    Ok(())
}

/// Receives what [`send_fds`] sent. Every descriptor that arrives is owned by the result or closed.
pub(crate) fn receive_fds(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for carried in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = carried {
            // SAFETY: the kernel made these descriptors for this process when it delivered the message; nothing else
            // in the process knows their numbers, so each gets exactly one owner here.
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
    fn a_descriptor_arrives_as_another_one_of_the_same_file() {
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
    fn a_peer_that_is_gone_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive_fds(&far).is_err());
    }
}
