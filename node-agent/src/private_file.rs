//! Files and directories that only their owner can read.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Start of the name of a temporary file.
const TEMPORARY_PREFIX: &str = ".podmeta-new-";

/// Age at which a temporary file is a leftover. A file is complete within milliseconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

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

/// Removes temporary files of processes that ended before they replaced their file. Another process may still write
/// newer ones.
pub(crate) fn remove_leftovers(directory: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
        if is_temporary && is_leftover(&entry, now) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

fn is_leftover(entry: &fs::DirEntry, now: SystemTime) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age >= LEFTOVER_AGE))
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
