//! What the dev server keeps between runs, in the user's state folder: session keys, and the key that identity documents
//! are signed with, whose certificate is written beside it for whoever verifies them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use podmeta_metadata::signature::Signer;
use podmeta_service::identity::IdentityKey;

use crate::keys::{KeyFile, private_folder, replace};

/// The folder that state is kept in.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// The folder that was given, else `podmeta` in `XDG_STATE_HOME`, else in `~/.local/state`.
    ///
    /// # Errors
    /// If the folder cannot be made, or the user has no home.
    pub fn open(given: Option<PathBuf>) -> Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = given
            .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("podmeta")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/podmeta")))
            .context("there is no home to keep session keys in; give --state-dir")?;
        private_folder(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The file of session keys.
    #[must_use]
    pub fn session_keys(&self) -> KeyFile {
        KeyFile::at(self.folder.join("session-keys.json"))
    }

    /// The certificate that signed documents are verified with, in PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("identity-certificate.pem")
    }

    /// The key that signs identity documents; made when it is first asked for, with its certificate.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn signer(&self) -> Result<Signer> {
        // One file holds both, so that they always belong together; it appears as a whole, or another process was first.
        let path = self.folder.join("identity.json");
        let identity = match read(&path)? {
            Some(identity) => identity,
            None => {
                let new = self.folder.join(format!("identity.json.new-{}", std::process::id()));
                replace(&new, &serde_json::to_vec(&IdentityKey::generate("podmeta development identity")?)?)
                    .with_context(|| format!("cannot write {}", new.display()))?;
                let linked = fs::hard_link(&new, &path);
                drop(fs::remove_file(&new));
                match linked {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error).with_context(|| format!("cannot write {}", path.display()));
                    }
                    Ok(()) | Err(_) => read(&path)?.with_context(|| format!("{} is gone", path.display()))?,
                }
            }
        };
        let certificate = self.certificate();
        replace(&certificate, identity.certificate.as_bytes())
            .with_context(|| format!("cannot write {}", certificate.display()))?;
        identity
            .signer()
            .with_context(|| format!("{} holds no usable key; remove it to make a new one", path.display()))
    }
}

fn read(path: &Path) -> Result<Option<IdentityKey>> {
    match fs::read(path) {
        Ok(bytes) => {
            let wrong = || format!("{} holds no usable key; remove it to make a new one", path.display());
            serde_json::from_slice(&zeroize::Zeroizing::new(bytes)).map(Some).with_context(wrong)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
