//! One profile: what of it holds, and what it names.

use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MAX_SPEC, MetadataProfileStatus};
use podmeta_metadata::profile::{Profile, ProfileRef, UserDataSource};
use podmeta_metadata::role::Provider;

use crate::profile::{Invalid, ProfileObject, Valid};

/// A profile, and what holds of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) reference: ProfileRef,
    pub(super) errors: Vec<FieldError>,
    /// The newest generation that is valid.
    pub(super) valid: Option<Valid>,
    /// What holds for its pods if none ever was.
    pub(super) shut: Option<Profile>,
    pub(super) status: Option<MetadataProfileStatus>,
}

impl Known {
    /// What is known once the API server holds something else than before.
    pub(super) fn next(before: Option<Self>, object: ProfileObject) -> Self {
        let ProfileObject { reference, spec, status } = object;
        let remembered = before.and_then(|before| before.valid);
        match spec {
            Ok(valid) => Self { reference, errors: Vec::new(), valid: Some(valid), shut: None, status },
            Err(Invalid { errors, last_valid, shut }) => {
                let said = status.as_ref().and_then(|status| status.observed_generation);
                let valid = if said == Some(reference.generation) {
                    // The leader has said what holds while this generation does not, so that all replicas agree.
                    last_valid.or(remembered)
                } else {
                    remembered.into_iter().chain(last_valid).max_by_key(|valid| valid.written.generation)
                };
                Self { reference, errors, valid, shut, status }
            }
        }
    }

    /// What the status keeps. What this version cannot read stays there, for one that can.
    pub(super) fn last_valid(&self) -> Option<LastValid> {
        match &self.valid {
            Some(valid) => Some(valid.written.clone()).filter(|written| written.spec.len() <= MAX_SPEC),
            None => self.status.as_ref()?.last_valid.clone(),
        }
    }

    /// What its pods are served by.
    pub(super) fn profile(&self) -> Option<&Profile> {
        self.valid.as_ref().map(|valid| &valid.profile).or(self.shut.as_ref())
    }

    /// The names of all Secrets that the profile names.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let roles =
            self.profile().into_iter().flat_map(|profile| profile.roles.values()).filter_map(|role| {
                match &role.provider {
                    Provider::Secret { name } => Some(name.as_str()),
                    Provider::AwsWebIdentity { .. } | Provider::AwsAssumeRole { .. } | Provider::AliyunOidc { .. } => {
                        None
                    }
                }
            });
        let data = self.profile().into_iter().filter_map(|profile| match &profile.user_data {
            Some(UserDataSource::Secret(key)) => Some(key.name.as_str()),
            Some(UserDataSource::Inline(_) | UserDataSource::ConfigMap(_)) | None => None,
        });
        roles.chain(data)
    }
}
