//! The parameters of a session. They are resolved from the compiled pod only, and are the key of the cache.

use jiff::Timestamp;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::RoleArn;
use podmeta_metadata::role::{Provider, ProviderKind, SessionDuration};
use podmeta_metadata::workload::{PodRef, Workload};

use crate::cluster::cluster_id::ClusterId;
use crate::model::state::OperatorState;

/// Everything that the credentials of a pod's role depend on, and the profile that their events are about. Requests that differ
/// in anything do not share credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleRequest {
    /// The pod.
    pub pod: PodRef,
    /// The node that the pod is bound to.
    pub node: String,
    /// The pod's ServiceAccount, if the pod names one.
    pub service_account: Option<String>,
    /// The profile that has the role.
    pub profile: ProfileId,
    /// The dialect of the role.
    pub dialect: Dialect,
    /// The role.
    pub role: CloudRole,
    /// The lifetime of the session.
    pub duration: SessionDuration,
}

/// A profile, independent of its generation: an edit of another field causes no call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileId {
    /// The name. The namespace is that of the pod.
    pub name: String,
    /// The UID.
    pub uid: String,
}

/// A role of a cloud, with the parameters of its provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloudRole {
    /// AWS, with a token of the pod's ServiceAccount.
    AwsWebIdentity {
        /// The role.
        role_arn: RoleArn,
        /// The token's audience.
        audience: String,
    },
    /// AWS, with the operator's own credentials.
    AwsAssumeRole {
        /// The role.
        role_arn: RoleArn,
        /// The external ID.
        external_id: String,
    },
    /// Alibaba Cloud, with a token of the pod's ServiceAccount.
    AliyunOidc {
        /// The role.
        role_arn: RoleArn,
        /// The OIDC provider of the cluster.
        oidc_provider_arn: String,
    },
}

impl CloudRole {
    /// Returns the kind of the provider.
    #[must_use]
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::AwsWebIdentity { .. } => ProviderKind::AwsWebIdentity,
            Self::AwsAssumeRole { .. } => ProviderKind::AwsAssumeRole,
            Self::AliyunOidc { .. } => ProviderKind::AliyunOidc,
        }
    }

    /// Returns the ARN of the role.
    #[must_use]
    pub fn arn(&self) -> &RoleArn {
        match self {
            Self::AwsWebIdentity { role_arn, .. }
            | Self::AwsAssumeRole { role_arn, .. }
            | Self::AliyunOidc { role_arn, .. } => role_arn,
        }
    }
}

/// Error of a role whose external ID is not that of its namespace. The trust policy of another namespace could accept it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the externalId of a role in this namespace must be {0}, absent, or match allowedExternalIds of a MetadataPolicy"
)]
pub struct ForeignExternalId(String);

/// Returns the parameters of the role that a pod has in a dialect. Returns `None` if it has none, or the role's credentials
/// do not come from a cloud.
///
/// # Errors
/// If the profile sets an external ID that is not that of its namespace, and no policy allows it.
pub fn resolve(
    workload: &Workload,
    dialect: Dialect,
    node: &str,
    cluster: &ClusterId,
) -> Result<Option<RoleRequest>, ForeignExternalId> {
    let (Some(profile), Some(role)) = (&workload.profile, workload.role(dialect)) else { return Ok(None) };
    let (role, duration) = match &role.provider {
        Provider::Secret { .. } => return Ok(None),
        Provider::AwsWebIdentity { role_arn, audience, duration } => {
            let (role_arn, audience) = (role_arn.clone(), audience.to_string());
            (CloudRole::AwsWebIdentity { role_arn, audience }, *duration)
        }
        Provider::AwsAssumeRole { role_arn, external_id, is_external_id_allowed, duration } => {
            let derived = external_id_of(cluster, &workload.pod.namespace);
            let external_id = match external_id {
                Some(set) if *is_external_id_allowed => set.to_string(),
                Some(set) if set.as_str() != derived => return Err(ForeignExternalId(derived)),
                _ => derived,
            };
            (CloudRole::AwsAssumeRole { role_arn: role_arn.clone(), external_id }, *duration)
        }
        Provider::AliyunOidc { role_arn, oidc_provider_arn, duration } => {
            let (role_arn, oidc_provider_arn) = (role_arn.clone(), oidc_provider_arn.to_string());
            (CloudRole::AliyunOidc { role_arn, oidc_provider_arn }, *duration)
        }
    };
    Ok(Some(RoleRequest {
        pod: workload.pod.clone(),
        node: node.to_owned(),
        service_account: workload.instance.service_account.clone(),
        profile: ProfileId { name: profile.name.clone(), uid: profile.uid.clone() },
        dialect,
        role,
        duration,
    }))
}

/// Returns true if the pod of a request has not ended and still has this role.
#[must_use]
pub fn is_current(state: &OperatorState, request: &RoleRequest, cluster: &ClusterId, now: Timestamp) -> bool {
    let pod = state.pod_on_node(&request.node, &request.pod.uid).filter(|_| !state.has_ended(&request.pod.uid, now));
    let Some(workload) = pod.and_then(|pod| pod.item.outcome.workload()) else { return false };
    let current = resolve(workload, request.dialect, &request.node, cluster);
    current.is_ok_and(|current| current.as_ref() == Some(request))
}

/// Returns the external ID of the roles of a namespace: `CLUSTER/NAMESPACE`. A role whose trust policy requires it cannot be
/// assumed for a pod of another namespace or cluster.
#[must_use]
pub fn external_id_of(cluster: &ClusterId, namespace: &str) -> String {
    format!("{}/{namespace}", cluster.as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the request of a pod for an `awsWebIdentity` role.
    pub(crate) fn web_identity(namespace: &str, pod: &str) -> RoleRequest {
        RoleRequest {
            pod: PodRef { namespace: namespace.into(), name: pod.into(), uid: pod.try_into().unwrap() },
            node: "n1".into(),
            service_account: Some("web".into()),
            profile: ProfileId { name: "web".into(), uid: "p1".into() },
            dialect: Dialect::Ec2,
            role: CloudRole::AwsWebIdentity {
                role_arn: "arn:aws:iam::123456789012:role/web".try_into().unwrap(),
                audience: "sts.amazonaws.com".into(),
            },
            duration: SessionDuration::HOUR,
        }
    }

    #[test]
    fn external_id_names_cluster_and_namespace_and_is_valid() {
        let id = external_id_of(&"0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001".parse().unwrap(), "shop");
        assert_eq!(id, "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001/shop");
        // Source: AssumeRole, ExternalId: 2 to 1,224 of [\w+=,.@:\/-].
        assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c)));
    }

    #[test]
    fn requests_that_differ_in_any_parameter_are_different_keys() {
        let request = web_identity("shop", "u1");
        let arn = || -> RoleArn { "arn:aws:iam::123456789012:role/web".try_into().unwrap() };
        let assume = |external_id: &str| CloudRole::AwsAssumeRole { role_arn: arn(), external_id: external_id.into() };
        let keys = [
            request.clone(),
            RoleRequest { service_account: None, ..request.clone() },
            RoleRequest { node: "n2".into(), ..request.clone() },
            RoleRequest { duration: SessionDuration::try_from(7200).unwrap(), ..request.clone() },
            RoleRequest {
                role: CloudRole::AwsWebIdentity { role_arn: arn(), audience: "other".into() },
                ..request.clone()
            },
            RoleRequest { role: assume("a"), ..request.clone() },
            RoleRequest { role: assume("b"), ..request.clone() },
            web_identity("shop", "u2"),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
    }
}
