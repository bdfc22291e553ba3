//! What the system lets the process have.

/// Lets the process open as many files as its hard limit says: each client may hold hundreds of connections.
#[cfg(unix)]
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised; many connections may be refused");
    }
}

/// There is no such limit.
#[cfg(not(unix))]
pub fn raise_open_files() {}
