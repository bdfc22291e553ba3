//! The state of one profile: which generation is in effect for its pods.

use std::sync::Arc;

use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MAX_LAST_VALID_BYTES, MetadataProfileStatus};
use podmeta_metadata::profile::{Profile, ProfileRef};

use super::profile::{InvalidSpec, ProfileObject, ValidSpec};

/// A profile and the generation that is in effect.
#[derive(Debug)]
pub struct ProfileState {
    pub(super) reference: ProfileRef,
    /// The invalid fields of the newest generation.
    pub(super) errors: Vec<FieldError>,
    /// The newest valid generation.
    pub(super) valid: Option<ValidSpec>,
    /// A profile that serves nothing. It is in effect while there is no valid generation.
    pub(super) deny_all: Option<Arc<Profile>>,
    pub(super) status: Option<MetadataProfileStatus>,
}

impl ProfileState {
    /// Returns the state after the API server sent a new object. `previous` is the state of the same UID.
    pub(super) fn next(previous: Option<Self>, object: ProfileObject) -> Self {
        let ProfileObject { reference, spec, status } = object;
        let remembered = previous.and_then(|previous| previous.valid);
        match spec {
            Ok(valid) => Self { reference, errors: Vec::new(), valid: Some(valid), deny_all: None, status },
            Err(InvalidSpec { errors, last_valid, deny_all }) => {
                let observed = status.as_ref().and_then(|status| status.observed_generation);
                let valid = if observed == Some(reference.generation) {
                    // The leader has chosen the generation. All replicas use the same one.
                    last_valid.or(remembered)
                } else {
                    remembered.into_iter().chain(last_valid).max_by_key(|valid| valid.written.generation)
                };
                Self { reference, errors, valid, deny_all, status }
            }
        }
    }

    /// Returns the spec that the status keeps. A spec that this version cannot read is kept for a version that can.
    pub(super) fn last_valid(&self) -> Option<LastValid> {
        match &self.valid {
            Some(valid) => Some(valid.written.clone()).filter(|written| written.spec.len() <= MAX_LAST_VALID_BYTES),
            None => self.status.as_ref()?.last_valid.clone(),
        }
    }

    /// Returns the profile that is in effect.
    #[must_use]
    pub fn profile(&self) -> Option<&Arc<Profile>> {
        self.valid.as_ref().map(|valid| &valid.profile).or(self.deny_all.as_ref())
    }
}
