//! The file that session keys are kept in, so that tokens survive a restart and two processes may share them during an
//! upgrade. It is readable by its owner alone, and replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use podmeta_metadata::session::{KeyBytes, KeyFileError, Keyring};

use crate::edge::Edge;

/// How often session keys are read again, and rotated when they are due.
const EVERY: Duration = Duration::from_secs(60);

/// How long a key makes tokens before the next one does.
const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// The file of one node's session keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its folder cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file does not hold keys.
    #[error("{path} does not hold session keys ({source}); remove it to start with new ones, which ends all sessions")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyFileError,
    },
    /// There is no randomness.
    #[error("the system gives no random bytes for a session key")]
    Random,
}

impl KeyFile {
    /// The file at `path`; it need not be there yet.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the keys; makes the first one, and the next one once the current one is a day old. Other processes that
    /// do the same wait meanwhile, so that all have the same keys.
    ///
    /// # Errors
    /// If the file cannot be read, written or understood.
    pub fn load(&self, now: Timestamp) -> Result<Keyring, Error> {
        let file = |source| Error::File { path: self.path.clone(), source };
        if let Some(folder) = self.path.parent() {
            private_folder(folder).map_err(file)?;
        }
        let lock = options().write(true).create(true).truncate(false).open(self.path.with_extension("lock"));
        let lock = lock.map_err(file)?;
        lock.lock().map_err(file)?;
        let keys = match fs::read_to_string(&self.path) {
            Ok(text) => {
                let keys = Keyring::from_json(&zeroize::Zeroizing::new(text));
                Some(keys.map_err(|source| Error::Keys { path: self.path.clone(), source })?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file(error)),
        };
        match keys {
            Some(keys) if now.duration_since(keys.created()) < KEY_LIFE => Ok(keys),
            Some(keys) => self.store(keys.rotated(random()?, now)),
            None => self.store(Keyring::new(random()?, now)),
        }
    }

    fn store(&self, keys: Keyring) -> Result<Keyring, Error> {
        let text = keys.to_json().map_err(|error| Error::Keys { path: self.path.clone(), source: error.into() })?;
        replace(&self.path, text.as_bytes()).map_err(|source| Error::File { path: self.path.clone(), source })?;
        Ok(keys)
    }
}

/// Reads the session keys again now and then: another process may have rotated them, or it is time to.
pub async fn keep(file: KeyFile, edge: Arc<Edge>) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        match file.load(Timestamp::now()) {
            Ok(keys) => edge.set_keys(keys),
            Err(error) => tracing::warn!(%error, "session keys could not be read again; the ones at hand are used"),
        }
    }
}

fn random() -> Result<KeyBytes, Error> {
    let mut bytes = KeyBytes::default();
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// Replaces a file as a whole with one that only its owner can read.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = options().write(true).create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Makes a folder that only its owner can enter, and those above it.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn options() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::dialect::Dialect;
    use podmeta_metadata::names::PodUid;
    use podmeta_metadata::options::TokenTtl;
    use podmeta_metadata::session::LastToken;

    use super::*;

    /// A folder of the test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("podmeta-keys-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_767_600_000 + hours * 3600).unwrap()
    }

    #[test]
    fn tokens_survive_a_restart_and_a_day_s_rotation() {
        let folder = Folder::new("restart");
        let file = KeyFile::at(folder.0.join("state").join("keys.json"));
        let pod = PodUid::try_from("a").unwrap();
        let token = file.load(at(0)).unwrap().issue(&pod, Dialect::Ec2, TokenTtl::MAX, at(23)).unwrap();
        for hours in [23, 25] {
            let keys = file.load(at(hours)).unwrap();
            let verified = keys.verify(token.as_bytes(), &LastToken::default(), &pod, Dialect::Ec2, at(hours));
            assert!(verified.is_ok(), "after {hours} hours");
        }
        assert_eq!(file.load(at(26)).unwrap().created(), at(25), "the key is replaced once a day");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_but_the_owner_can_read_the_keys() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Folder::new("mode");
        let file = KeyFile::at(folder.0.join("keys.json"));
        file.load(at(0)).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_holds_no_keys_is_not_overwritten() {
        let folder = Folder::new("bad");
        let file = KeyFile::at(folder.0.join("keys.json"));
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(&file.path, "not keys").unwrap();
        assert!(file.load(at(0)).unwrap_err().to_string().contains("remove it"));
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "not keys");
    }
}
