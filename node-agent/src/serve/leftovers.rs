//! Removes temporary files of processes that ended before they replaced their file.

use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use crate::private_file::TEMPORARY_PREFIX;

/// Age at which a temporary file is a leftover. A file is complete within milliseconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// Removes old temporary files of a directory. Another process may still write newer ones.
pub(super) fn remove(directory: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
        if is_temporary && is_old(&entry, now) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

fn is_old(entry: &fs::DirEntry, now: SystemTime) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age >= LEFTOVER_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_temporary_files_are_removed_and_all_other_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, age) in [(".podmeta-new-old", 60), (".podmeta-new-new", 59), ("state.json", 3600)] {
            let file = fs::File::create(directory.path().join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        remove(directory.path(), now).unwrap();
        let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".podmeta-new-new", "state.json"]);
    }
}
