//! The session key file. Tokens survive a restart, and two processes can share the keys during an upgrade.

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use podmeta_metadata::secret::JsonErrorPosition;
use podmeta_metadata::session::{KeyBytes, KeyFileError, Keyring, MAX_CLOCK_STEP, Nonce};
use zeroize::Zeroizing;

use crate::private_file;

/// Interval at which session keys are read again, and rotated if they are due.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Age at which the current key is replaced.
const ROTATION_AGE: SignedDuration = SignedDuration::from_hours(24);

/// The file of one node's session keys. Only its owner can read it.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

/// An error of [`KeyFile::load`].
#[derive(Debug, thiserror::Error)]
pub enum LoadKeysError {
    /// The file or its directory cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not contain session keys.
    #[error("invalid session keys in {path}: {source}; remove the file to create new keys, which ends all sessions")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: KeyFileError,
    },
    /// The system's random number generator failed.
    #[error("cannot get random bytes for a session key")]
    Random,
}

impl KeyFile {
    /// Refers to the file at `path`, which may not exist yet.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the keys. Creates the first key, and rotates the current key if it is 24 hours old or more than
    /// [`MAX_CLOCK_STEP`] from the future. Blocks while another process holds the lock of the file, so that all processes
    /// have the same keys.
    ///
    /// # Errors
    /// If the file cannot be read, parsed or written.
    pub fn load(&self, now: Timestamp) -> Result<Keyring, LoadKeysError> {
        let io_error = |source| LoadKeysError::Io { path: self.path.clone(), source };
        if let Some(directory) = self.path.parent() {
            private_file::create_dir(directory).map_err(io_error)?;
        }
        let lock =
            private_file::options().write(true).create(true).truncate(false).open(self.path.with_extension("lock"));
        let lock = lock.map_err(io_error)?;
        lock.lock().map_err(io_error)?;
        let keys = match fs::read_to_string(&self.path) {
            Ok(text) => {
                let keys = Keyring::from_json(&Zeroizing::new(text));
                Some(keys.map_err(|source| LoadKeysError::Invalid { path: self.path.clone(), source })?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(error)),
        };
        let valid_ages = -MAX_CLOCK_STEP..ROTATION_AGE;
        match keys {
            Some(keys) if valid_ages.contains(&now.duration_since(keys.created())) => Ok(keys),
            Some(keys) => self.store(keys.rotated(random_key()?, now)),
            None => self.store(Keyring::new(random_key()?, now)),
        }
    }

    /// Reads the keys every 60 seconds, because another process may have rotated them, and passes them to `publish`.
    pub async fn refresh(self, publish: impl Fn(Keyring)) -> Infallible {
        let mut tick = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            tick.tick().await;
            let file = self.clone();
            // On a blocking thread, because another process may hold the lock.
            let loaded = tokio::task::spawn_blocking(move || file.load(Timestamp::now())).await;
            let error: Box<dyn Error> = match loaded {
                Ok(Ok(keys)) => {
                    publish(keys);
                    continue;
                }
                Ok(Err(error)) => error.into(),
                Err(panicked) => panicked.into(),
            };
            tracing::warn!(
                %error,
                "cannot refresh session keys; keeping the current ones and retrying in {} s: check the file, if the error names one",
                REFRESH_INTERVAL.as_secs()
            );
        }
    }

    fn store(&self, keys: Keyring) -> Result<Keyring, LoadKeysError> {
        let text = keys.to_json();
        let text = text.map_err(|error| LoadKeysError::Invalid {
            path: self.path.clone(),
            source: JsonErrorPosition::from(&error).into(),
        })?;
        let stored = private_file::replace(&self.path, text.as_bytes());
        stored.map_err(|source| LoadKeysError::Io { path: self.path.clone(), source })?;
        Ok(keys)
    }
}

fn random_key() -> Result<KeyBytes, LoadKeysError> {
    let mut bytes = KeyBytes::default();
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| LoadKeysError::Random)?;
    Ok(bytes)
}

/// Initializes the random number generator on another thread, which takes 80 ms. Otherwise the first token would initialize it,
/// and the worker thread would serve no pod for that time.
pub(crate) fn initialize_random() {
    drop(std::thread::Builder::new().name("random".to_owned()).spawn(random_nonce));
}

/// Returns random bytes for a session token, or `None` if the system's random number generator fails.
pub(crate) fn random_nonce() -> Option<Nonce> {
    let mut bytes = Nonce::default();
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::dialect::Dialect;
    use podmeta_metadata::names::PodUid;
    use podmeta_metadata::options::TokenTtl;
    use podmeta_metadata::session::LastToken;

    use super::*;

    /// A directory that is removed on drop.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("podmeta-keys-{name}-{}", std::process::id())))
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_767_600_000 + hours * 3600).unwrap()
    }

    #[test]
    fn token_stays_valid_after_restart_and_rotation() {
        let directory = TestDir::new("restart");
        let file = KeyFile::at(directory.0.join("state").join("keys.json"));
        let pod = PodUid::try_from("a").unwrap();
        let keys = file.load(at(0)).unwrap();
        let token = keys.issue(&pod, Dialect::Ec2, TokenTtl::MAX, [1; 16], at(23)).unwrap();
        for hours in [23, 25] {
            let keys = file.load(at(hours)).unwrap();
            let verified = keys.verify(token.as_bytes(), &LastToken::default(), &pod, Dialect::Ec2, at(hours));
            assert!(verified.is_ok(), "after {hours} hours");
        }
        assert_eq!(file.load(at(26)).unwrap().created(), at(25), "the key is replaced once a day");
    }

    #[test]
    fn key_created_more_than_six_hours_in_the_future_is_replaced() {
        let directory = TestDir::new("future");
        let file = KeyFile::at(directory.0.join("keys.json"));
        file.load(at(100)).unwrap();
        assert_eq!(file.load(at(94)).unwrap().created(), at(100), "a small step of the clock");
        assert_eq!(file.load(at(93)).unwrap().created(), at(93));
    }

    #[cfg(unix)]
    #[test]
    fn key_file_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = TestDir::new("mode");
        let file = KeyFile::at(directory.0.join("keys.json"));
        file.load(at(0)).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory.0).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn invalid_key_file_is_an_error_and_is_kept() {
        let directory = TestDir::new("bad");
        let file = KeyFile::at(directory.0.join("keys.json"));
        fs::create_dir_all(&directory.0).unwrap();
        fs::write(&file.path, "not keys").unwrap();
        assert!(file.load(at(0)).unwrap_err().to_string().contains("remove the file"));
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "not keys");
    }

    #[tokio::test]
    async fn refresh_that_waits_for_another_process_does_not_block_the_runtime() {
        let directory = TestDir::new("lock");
        let file = KeyFile::at(directory.0.join("keys.json"));
        file.load(at(0)).unwrap();
        let lock = fs::File::open(directory.0.join("keys.lock")).unwrap();
        lock.lock().unwrap();
        let (done_tx, done_rx) = std::sync::mpsc::channel::<()>();
        // Ends the wait of a blocked runtime, so that the test fails instead of hanging.
        let unlocking = std::thread::spawn(move || {
            let in_time = done_rx.recv_timeout(Duration::from_secs(5)).is_ok();
            drop(lock);
            in_time
        });
        let published = |_| panic!("the keys are read while they are locked");
        assert!(tokio::time::timeout(Duration::from_millis(50), file.refresh(published)).await.is_err());
        let _sent = done_tx.send(());
        assert!(unlocking.join().unwrap());
    }
}
