//! Waits for the status of MetadataProfiles.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Api;
use podmeta_crds::metadataprofile::{MetadataProfile, MetadataProfileStatus};

use super::podmeta::Podmeta;
use super::{TestNamespace, eventually};

const STATUS_TIMEOUT: Duration = Duration::from_secs(40);

impl Podmeta {
    /// Returns the current status of a profile, which is empty if none was written.
    pub(crate) async fn status(&self, namespace: &TestNamespace, profile: &str) -> Result<MetadataProfileStatus> {
        let profiles: Api<MetadataProfile> = namespace.api();
        Ok(profiles.get(profile).await?.status.unwrap_or_default())
    }

    /// Waits until the status of a profile meets the expectation, and returns it.
    pub(crate) async fn wait_for_status(
        &self,
        namespace: &TestNamespace,
        profile: &str,
        expectation: &str,
        predicate: impl Fn(&MetadataProfileStatus) -> bool,
    ) -> Result<MetadataProfileStatus> {
        eventually(STATUS_TIMEOUT, expectation, async || {
            let status = self.status(namespace, profile).await?;
            ensure!(predicate(&status), "status of MetadataProfile {profile}: {}", serde_json::to_string(&status)?);
            Ok(status)
        })
        .await
    }

    /// Waits until a profile is programmed for this number of pods.
    pub(crate) async fn wait_until_programmed(
        &self,
        namespace: &TestNamespace,
        profile: &str,
        pods: i64,
    ) -> Result<()> {
        let expectation = format!("profile {profile} is programmed for {pods} pods");
        let programmed = |status: &MetadataProfileStatus| status.programmed_pods == Some(pods);
        self.wait_for_status(namespace, profile, &expectation, programmed).await.map(drop)
    }
}

/// Returns the condition of a type.
pub(crate) fn find_condition<'s>(status: &'s MetadataProfileStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// True if the condition of a type has this status (`True`, `False`, `Unknown`).
pub(crate) fn has_condition(status: &MetadataProfileStatus, kind: &str, value: &str) -> bool {
    find_condition(status, kind).is_some_and(|condition| condition.status == value)
}
