//! The file with the last state of the node, so that the agent can restart while the operator is unavailable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use podmeta_agent_api::{ResourceVersion, WorkloadItem};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::broker::operator::SavedBrokerState;
use crate::private_file;

/// The state file. Only one task writes it at a time.
#[derive(Clone, Debug)]
pub struct StateFile(Arc<Mutex<PathBuf>>);

/// The content of the state file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedState {
    /// The resource version to continue the watch from.
    pub resource_version: Option<ResourceVersion>,
    /// The pods of the node.
    pub items: Vec<Arc<WorkloadItem>>,
    /// Credentials and documents of the pods.
    #[serde(rename = "kept")]
    pub broker_state: SavedBrokerState,
}

impl StateFile {
    /// Refers to `state.json` in a directory.
    #[must_use]
    pub fn in_dir(directory: &Path) -> Self {
        Self(Arc::new(Mutex::new(directory.join("state.json"))))
    }

    /// Reads the file. Returns `None` if it does not exist or cannot be parsed; the operator has all of its data.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn read(&self) -> Result<Option<SavedState>> {
        let path = &*self.path();
        let text = match fs::read(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                // The error's own text may contain a secret value.
                let (line, column) = (error.line(), error.column());
                tracing::warn!(
                    file = %path.display(),
                    line,
                    column,
                    "cannot parse saved state; waiting for the operator"
                );
                Ok(None)
            }
        }
    }

    /// Replaces the file atomically. It has mode 0600.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, state: &SavedState) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec(state)?);
        private_file::replace(&self.path(), &text)
    }

    /// Returns the path of the file. Writes wait until the result is dropped.
    pub(super) fn path(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{denied_item, list, node_state, saved_broker_state};

    #[test]
    fn state_file_is_private_and_an_invalid_one_is_ignored() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("podmeta-state-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = StateFile::in_dir(&directory);
        assert!(file.read().unwrap().is_none());
        let node = node_state(SavedState { broker_state: saved_broker_state(&["a"]), ..SavedState::default() });
        node.apply_list(list(3, vec![denied_item("a", "one")]));
        let state = SavedState { broker_state: saved_broker_state(&["a"]), ..node.state() };
        file.write(&state).unwrap();
        assert_eq!(fs::metadata(&*file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let read = file.read().unwrap().unwrap();
        assert_eq!((read.items, read.resource_version), (state.items, state.resource_version));
        assert_eq!(read.broker_state, state.broker_state);
        fs::write(&*file.path(), "{").unwrap();
        assert!(file.read().unwrap().is_none());
        fs::remove_dir_all(&directory).unwrap();
    }
}
