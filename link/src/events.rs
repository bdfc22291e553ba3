//! Events of the kernel, which start a check before its interval has passed. Only their arrival matters: a check compares
//! the whole state, so a lost event delays a repair and does not prevent it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::netns::Netns;

/// A source of events: a descriptor that becomes readable and does not block.
#[derive(Debug)]
pub(crate) struct Events(OwnedFd);

impl Events {
    /// Joins multicast groups of a netlink protocol in a namespace.
    pub(crate) fn of_netlink(netns: &Netns, protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let socket = netns.run(|| {
            let mut socket = Socket::new(protocol)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        })?;
        socket.as_fd().try_clone_to_owned().map(Self)
    }

    /// Watches the files of a directory: complete writes, renames, new and removed files.
    pub(crate) fn of_directory(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(path, changes)?;
        Ok(Self(inotify.into()))
    }

    /// Watches directories for new entries. Directories that do not exist are skipped.
    pub(crate) fn of_new_entries(paths: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for path in paths {
            match inotify.add_watch(path, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR) {
                Ok(_) | Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self(inotify.into()))
    }

    /// Discards all events that have arrived.
    fn discard(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                // ENOBUFS: the kernel dropped events because the buffer of the socket was full.
                Ok(1..) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Waits for an event of any source, or for the timeout. Discards the events that have arrived. Blocks the thread.
///
/// # Errors
/// If the events cannot be read.
pub(crate) fn wait(sources: &[&Events], timeout: Duration) -> io::Result<()> {
    let mut descriptors =
        sources.iter().map(|events| PollFd::new(events.0.as_fd(), PollFlags::POLLIN)).collect::<Vec<_>>();
    match poll(&mut descriptors, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => sources.iter().try_for_each(|events| events.discard()),
        Err(errno) => Err(errno.into()),
    }
}
