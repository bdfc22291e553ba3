//! Unix sockets that only their owner can use.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::UnixListener;

/// Binds a Unix socket with mode 0600. Replaces a socket that an earlier process left behind. Must be called in a tokio
/// runtime.
///
/// # Errors
/// If the socket cannot be created.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_is_private_and_replaces_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.sock");
        for _ in 0..2 {
            drop(bind(&path).unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
