//! Files of the node: the plugin's program and podmeta's CNI configuration.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cni::conflist::{self, ConfigFile, FILE_NAME, LinkSettings, PLUGIN_TYPE, Rendered};

/// State of podmeta's CNI configuration after [`write_conflist`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflistState {
    /// The file of podmeta.
    pub file: ConflistFile,
    /// Name of a valid configuration that sorts before podmeta's. The runtime uses it instead.
    pub sorts_before: Option<String>,
}

/// State of podmeta's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflistFile {
    /// It was up to date.
    Current,
    /// It was written.
    Written,
    /// It does not exist, because no other file is a valid configuration. A former one was removed.
    Absent,
}

/// Copies the plugin's program into the directory of CNI plugins. A runtime sees either the old or the new file.
///
/// # Errors
/// If the program cannot be read, or the directory cannot be written.
pub fn copy_plugin(program: &Path, directory: &Path) -> Result<()> {
    let content = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    replace(&directory.join(PLUGIN_TYPE), &content, 0o755)
}

/// Removes the plugin's program. Succeeds if it does not exist.
///
/// # Errors
/// If the file cannot be removed.
pub fn remove_plugin(directory: &Path) -> Result<()> {
    remove(&directory.join(PLUGIN_TYPE))
}

/// Makes podmeta's CNI configuration from the first valid one that sorts after it. Removes it if there is none. Idempotent.
///
/// # Errors
/// If the directory cannot be read or written.
pub fn write_conflist(directory: &Path, settings: LinkSettings) -> Result<ConflistState> {
    let path = directory.join(FILE_NAME);
    let files = read_files(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let Rendered { content, sorts_before } = conflist::render(&files, settings);
    let file = match content {
        Some(content) if files.iter().any(|file| file.path == path && file.content == content.as_bytes()) => {
            ConflistFile::Current
        }
        Some(content) => {
            replace(&path, content.as_bytes(), 0o600)?;
            ConflistFile::Written
        }
        None => {
            remove_conflist(directory)?;
            ConflistFile::Absent
        }
    };
    Ok(ConflistState { file, sorts_before })
}

/// Removes podmeta's CNI configuration. Succeeds if it does not exist.
///
/// # Errors
/// If the file cannot be removed.
pub fn remove_conflist(directory: &Path) -> Result<()> {
    remove(&directory.join(FILE_NAME))
}

/// Removes a file. Succeeds if it does not exist.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads the configurations of a directory. Other files, and those that disappear meanwhile, are skipped.
fn read_files(directory: &Path) -> io::Result<Vec<ConfigFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_config = path.file_name().and_then(|name| name.to_str()).is_some_and(conflist::is_config);
        if !is_config || !path.is_file() {
            continue;
        }
        match std::fs::read(&path) {
            Ok(content) => files.push(ConfigFile { path, content }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Replaces a file by renaming a temporary one. The temporary name is random, because two containers can have the same
/// process ID, and has no extension that a runtime reads.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || {
        let mut temporary = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        temporary.write_all(content)?;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        temporary.persist(path)?;
        io::Result::Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;

    fn write(directory: &Path) -> ConflistFile {
        write_conflist(directory, LinkSettings::default()).unwrap().file
    }

    #[test]
    fn conflist_follows_the_source() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("10-pods.conflist");
        std::fs::write(&source, LIST).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
        assert_eq!(write(directory.path()), ConflistFile::Current);
        std::fs::write(&source, LIST.replace("bridge", "ptp")).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
        let ours = std::fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert!(ours.contains("ptp") && ours.contains(PLUGIN_TYPE), "{ours}");
        assert_eq!(
            std::fs::read_to_string(&source).unwrap(),
            LIST.replace("bridge", "ptp"),
            "the source is not written"
        );
    }

    #[test]
    fn conflist_is_restored_after_a_change_or_removal() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("10-pods.conflist"), LIST).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
        std::fs::write(directory.path().join(FILE_NAME), LIST).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
        std::fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
    }

    #[test]
    fn conflist_is_removed_with_the_last_source() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("10-pods.conflist");
        std::fs::write(&source, LIST).unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Written);
        std::fs::write(&source, "{").unwrap();
        assert_eq!(write(directory.path()), ConflistFile::Absent);
        assert!(!directory.path().join(FILE_NAME).exists());
    }

    #[test]
    fn configuration_that_sorts_before_ours_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join("00-multus.conf");
        std::fs::write(&first, r#"{"name":"m","type":"multus"}"#).unwrap();
        let state =
            |file, sorts_before: Option<&str>| ConflistState { file, sorts_before: sorts_before.map(Into::into) };
        let write = || write_conflist(directory.path(), LinkSettings::default()).unwrap();
        assert_eq!(write(), state(ConflistFile::Absent, Some("00-multus.conf")));
        std::fs::write(directory.path().join("10-pods.conflist"), LIST).unwrap();
        assert_eq!(write(), state(ConflistFile::Written, Some("00-multus.conf")));
        std::fs::remove_file(&first).unwrap();
        assert_eq!(write(), state(ConflistFile::Current, None));
    }

    #[test]
    fn plugin_is_replaced_and_executable() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        for content in ["old", "new"] {
            std::fs::write(&program, content).unwrap();
            copy_plugin(&program, directory.path()).unwrap();
            let plugin = directory.path().join(PLUGIN_TYPE);
            assert_eq!(std::fs::read_to_string(&plugin).unwrap(), content);
            assert_eq!(std::fs::metadata(&plugin).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
