//! The state directory of the dev server: session keys, and the key that signs identity documents with its certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use podmeta_metadata::secret::JsonErrorPosition;
use podmeta_metadata::signature::Signer;
use podmeta_service::identity::IdentityKey;
use zeroize::Zeroizing;

use crate::keys::KeyFile;
use crate::private_file;

/// The state directory.
#[derive(Clone, Debug)]
pub(super) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens and creates the directory: the given one, else `podmeta` in `XDG_STATE_HOME`, else in `~/.local/state`.
    ///
    /// # Errors
    /// If the directory cannot be created, or the user has no home directory.
    pub(super) fn open(given: Option<PathBuf>) -> Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let path = given
            .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("podmeta")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/podmeta")))
            .context("no home directory for session keys; set --state-dir")?;
        private_file::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Returns the session key file.
    pub(super) fn key_file(&self) -> KeyFile {
        KeyFile::at(self.path.join("session-keys.json"))
    }

    /// Returns the path of the certificate that verifies identity documents, in PEM.
    pub(super) fn certificate(&self) -> PathBuf {
        self.path.join("identity-certificate.pem")
    }

    /// Returns the signer of identity documents, and writes its certificate. Creates the key if it does not exist.
    ///
    /// # Errors
    /// If the files cannot be read or written.
    pub(super) fn signer(&self) -> Result<Signer> {
        let path = self.path.join("identity.json");
        let identity = match read(&path)? {
            Some(identity) => identity,
            None => self.create_identity(&path)?,
        };
        let certificate = self.certificate();
        private_file::replace(&certificate, identity.certificate.as_bytes())
            .with_context(|| format!("cannot write {}", certificate.display()))?;
        identity.signer().with_context(|| invalid(&path))
    }

    /// Creates the file of the key and certificate. If another process has created it meanwhile, returns that one.
    fn create_identity(&self, path: &Path) -> Result<IdentityKey> {
        let new = self.path.join(format!("identity.json.new-{}", std::process::id()));
        let identity = serde_json::to_vec(&IdentityKey::generate("podmeta development identity")?)?;
        private_file::replace(&new, &identity).with_context(|| format!("cannot write {}", new.display()))?;
        // A link appears atomically and does not replace an existing file.
        let linked = fs::hard_link(&new, path);
        drop(fs::remove_file(&new));
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot write {}", path.display()))
            }
            Ok(()) | Err(_) => read(path)?.with_context(|| format!("{} was removed", path.display())),
        }
    }
}

fn read(path: &Path) -> Result<Option<IdentityKey>> {
    match fs::read(path) {
        Ok(bytes) => {
            let identity = serde_json::from_slice(&Zeroizing::new(bytes));
            let identity = identity.map_err(|error| JsonErrorPosition::from(&error));
            identity.map(Some).with_context(|| invalid(path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn invalid(path: &Path) -> String {
    format!("invalid key in {}; remove the file to create a new key", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_a_malformed_identity_file_does_not_contain_its_values() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.json");
        for text in [r#""s3cret""#, r#"{"key": ["s3cret"], "certificate": ""}"#, r#"{"certificate": "", "s3cret": 1}"#]
        {
            fs::write(&path, text).unwrap();
            let error = format!("{:?}", read(&path).err().unwrap());
            assert!(error.contains("unexpected JSON at line 1") && !error.contains("s3cret"), "{error}");
        }
    }
}
