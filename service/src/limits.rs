//! Resource limits of the process.

/// Raises the limit of open files to the hard limit. One client can open hundreds of connections.
#[cfg(unix)]
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files; connections may fail");
    }
}

/// Does nothing: there is no such limit.
#[cfg(not(unix))]
pub fn raise_open_files() {}
