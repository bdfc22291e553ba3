//! Roles: their name in the tree, and the provider of their credentials.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{AccountId, InvalidValue, Line, RoleArn, RoleName};

/// A role of a pod. A dialect has at most one, because clients take the whole listing as the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// The name in the tree.
    pub name: RoleName,
    /// The provider of credentials.
    pub provider: Provider,
}

impl Role {
    /// Returns the account in the role's ARN.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        self.provider.arn()?.account()
    }
}

/// The provider of a role's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// Static keys in a Secret of the profile's namespace, for development.
    Secret {
        /// The name of the Secret.
        name: String,
    },
    /// AWS STS AssumeRoleWithWebIdentity with a token of the pod's ServiceAccount.
    #[serde(rename_all = "camelCase")]
    AwsWebIdentity {
        /// The role to assume.
        role_arn: RoleArn,
        /// The token's audience.
        audience: Line,
        /// The lifetime of a session.
        duration: SessionDuration,
    },
    /// AWS STS AssumeRole with the operator's own credentials.
    #[serde(rename_all = "camelCase")]
    AwsAssumeRole {
        /// The role to assume.
        role_arn: RoleArn,
        /// The external ID of the profile.
        external_id: Option<Line>,
        /// True if a policy allows the external ID. If false, the operator rejects each external ID except that of the
        /// namespace. Only compilation sets it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_external_id_allowed: bool,
        /// The lifetime of a session.
        duration: SessionDuration,
    },
    /// Alibaba Cloud STS AssumeRoleWithOIDC with a token of the pod's ServiceAccount.
    #[serde(rename_all = "camelCase")]
    AliyunOidc {
        /// The role to assume.
        role_arn: RoleArn,
        /// The OIDC provider of the cluster.
        oidc_provider_arn: Line,
        /// The lifetime of a session.
        duration: SessionDuration,
    },
}

/// The kinds of [`Provider`], with the names of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProviderKind {
    /// `secret`
    Secret,
    /// `awsWebIdentity`
    AwsWebIdentity,
    /// `awsAssumeRole`
    AwsAssumeRole,
    /// `aliyunOidc`
    AliyunOidc,
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "secret",
            Self::AwsWebIdentity => "awsWebIdentity",
            Self::AwsAssumeRole => "awsAssumeRole",
            Self::AliyunOidc => "aliyunOidc",
        })
    }
}

impl Provider {
    /// Returns the kind of the provider.
    #[must_use]
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::Secret { .. } => ProviderKind::Secret,
            Self::AwsWebIdentity { .. } => ProviderKind::AwsWebIdentity,
            Self::AwsAssumeRole { .. } => ProviderKind::AwsAssumeRole,
            Self::AliyunOidc { .. } => ProviderKind::AliyunOidc,
        }
    }

    /// Returns the name of the Secret that holds the credentials, or `None` for the other providers.
    #[must_use]
    pub fn secret_name(&self) -> Option<&str> {
        match self {
            Self::Secret { name } => Some(name),
            Self::AwsWebIdentity { .. } | Self::AwsAssumeRole { .. } | Self::AliyunOidc { .. } => None,
        }
    }

    /// Returns true if the credentials are exchanged for a token of the pod's ServiceAccount.
    #[must_use]
    pub fn needs_service_account(&self) -> bool {
        match self {
            Self::AwsWebIdentity { .. } | Self::AliyunOidc { .. } => true,
            Self::Secret { .. } | Self::AwsAssumeRole { .. } => false,
        }
    }

    /// Returns a mutable reference to the lifetime of a session, or `None` for static keys.
    pub fn duration_mut(&mut self) -> Option<&mut SessionDuration> {
        match self {
            Self::Secret { .. } => None,
            Self::AwsWebIdentity { duration, .. }
            | Self::AwsAssumeRole { duration, .. }
            | Self::AliyunOidc { duration, .. } => Some(duration),
        }
    }

    /// Returns the ARN of the role to assume.
    #[must_use]
    pub fn arn(&self) -> Option<&RoleArn> {
        match self {
            Self::Secret { .. } => None,
            Self::AwsWebIdentity { role_arn, .. }
            | Self::AwsAssumeRole { role_arn, .. }
            | Self::AliyunOidc { role_arn, .. } => Some(role_arn),
        }
    }
}

/// The lifetime of an STS session: 3600 to 43200 seconds.
/// Source: STS AssumeRole, `DurationSeconds`. The minimum is podmeta's: at renewal, 30 minutes are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct SessionDuration(u16);

impl SessionDuration {
    /// The default of both clouds' STS: one hour.
    pub const HOUR: Self = Self(3600);

    /// Returns the lifetime in seconds.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for SessionDuration {
    type Error = InvalidValue;

    fn try_from(number: i64) -> Result<Self, InvalidValue> {
        match u16::try_from(number) {
            Ok(seconds @ 3600..=43_200) => Ok(Self(seconds)),
            _ => Err(InvalidValue(format!("must be 3600 to 43200 seconds, not {number}"))),
        }
    }
}

impl From<SessionDuration> for i64 {
    fn from(duration: SessionDuration) -> Self {
        Self::from(duration.0)
    }
}
