//! Network namespaces: opens, creates, pins and enters them. No other module of this crate enters one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// The namespace of the calling thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns(File);

/// Identity of a network namespace on a node while it exists: the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId(u64);

impl Netns {
    /// Opens the namespace that is mounted at a path.
    ///
    /// # Errors
    /// If the file cannot be opened or is not on the filesystem of namespaces.
    pub fn open(path: &Path) -> io::Result<Self> {
        let netns = Self(File::open(path)?);
        if netns.0.metadata()?.dev() != Self::current()?.0.metadata()?.dev() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not a network namespace"));
        }
        Ok(netns)
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        File::open(OWN_NAMESPACE).map(Self)
    }

    /// Creates a namespace. It exists while it is open or pinned.
    ///
    /// # Errors
    /// If the process may not create namespaces.
    pub fn create() -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
    }

    /// Mounts the namespace on an open file, so that it exists without a process.
    ///
    /// # Errors
    /// If the file was removed (`ENOENT`), or the process may not mount.
    pub fn pin(&self, file: &File) -> io::Result<()> {
        let [source, target] = [&self.0, file].map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        mount(Some(source.as_str()), target.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Returns the identity.
    ///
    /// # Errors
    /// If the kernel cannot read the metadata of the file.
    pub fn id(&self) -> io::Result<NetnsId> {
        Ok(NetnsId(self.0.metadata()?.ino()))
    }

    /// Runs a function in the namespace, in a thread of its own, and returns its result. Blocks the caller.
    ///
    /// # Errors
    /// If the process may not enter the namespace, or the function fails.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            function()
        })
    }

    /// Returns the descriptor, for netlink attributes.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs a function in a new thread. The thread ends afterwards, because its namespace differs from the others'.
fn in_thread<T: Send>(function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let panicked = |_| io::Error::other("the thread in the namespace panicked");
        scope.spawn(function).join().map_err(panicked)?
    })
}
