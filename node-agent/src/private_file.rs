//! Files and directories that only their owner can read.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Start of the name of a temporary file.
pub(crate) const TEMPORARY_PREFIX: &str = ".podmeta-new-";

/// Replaces a file atomically. The new file has mode 0600. The name of the temporary file is random, because processes
/// of two containers can have the same process ID.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).rand_bytes(16).tempfile_in(directory)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}

/// Creates a directory and its missing parents with mode 0700. An existing directory is not an error.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    dir_builder().recursive(true).create(path)
}

/// Creates a directory with mode 0700.
///
/// # Errors
/// If it exists.
#[cfg(target_os = "linux")]
pub(crate) fn create_new_dir(path: &Path) -> io::Result<()> {
    dir_builder().create(path)
}

fn dir_builder() -> fs::DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no modes"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Returns options that create a file with mode 0600.
pub(crate) fn options() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
