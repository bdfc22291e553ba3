//! Limits of the process.

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

/// Prevents core dumps, which would contain secrets: the limit of their size is 0, and the process is not dumpable. Other
/// processes of the same user can no longer trace it.
///
/// # Errors
/// If the kernel rejects it.
#[cfg(unix)]
pub fn disable_core_dumps() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Does nothing: there are no core dumps.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn disable_core_dumps() -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use nix::sys::prctl::get_dumpable;
    use nix::sys::resource::{Resource, getrlimit};

    use super::*;

    #[test]
    fn process_without_core_dumps_is_not_dumpable() {
        disable_core_dumps().unwrap();
        assert!(!get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
