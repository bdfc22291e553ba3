//! Roles: the name that a pod sees and the provider that its credentials come from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{AccountId, InvalidValue, Line, RoleArn, RoleName};

/// One role of a pod; there is at most one in a dialect, because clients take the whole listing as the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// The name in the tree.
    pub name: RoleName,
    /// Where credentials come from.
    pub provider: Provider,
}

impl Role {
    /// The account that the role's ARN names.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        self.provider.arn()?.account()
    }
}

/// Where a role's credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// Static keys in a Secret of the profile's namespace, for development.
    Secret {
        /// The Secret's name.
        name: String,
    },
    /// AWS STS AssumeRoleWithWebIdentity with a token of the pod's ServiceAccount.
    #[serde(rename_all = "camelCase")]
    AwsWebIdentity {
        /// The role to assume.
        role_arn: RoleArn,
        /// The token's audience.
        audience: Line,
        /// How long a session lives.
        duration: SessionDuration,
    },
    /// AWS STS AssumeRole with the operator's own credentials.
    #[serde(rename_all = "camelCase")]
    AwsAssumeRole {
        /// The role to assume.
        role_arn: RoleArn,
        /// The external id that the role's trust policy demands.
        external_id: Option<Line>,
        /// How long a session lives.
        duration: SessionDuration,
    },
    /// Alibaba Cloud STS AssumeRoleWithOIDC with a token of the pod's ServiceAccount.
    #[serde(rename_all = "camelCase")]
    AliyunOidc {
        /// The role to assume.
        role_arn: RoleArn,
        /// The OIDC provider that is registered for the cluster.
        oidc_provider_arn: Line,
        /// How long a session lives.
        duration: SessionDuration,
    },
}

/// The kinds of [`Provider`], as policies name them.
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
    /// Which kind of provider this is.
    #[must_use]
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::Secret { .. } => ProviderKind::Secret,
            Self::AwsWebIdentity { .. } => ProviderKind::AwsWebIdentity,
            Self::AwsAssumeRole { .. } => ProviderKind::AwsAssumeRole,
            Self::AliyunOidc { .. } => ProviderKind::AliyunOidc,
        }
    }

    /// Returns the name of the Secret that holds the credentials.
    #[must_use]
    pub fn secret_name(&self) -> Option<&str> {
        match self {
            Self::Secret { name } => Some(name),
            Self::AwsWebIdentity { .. } | Self::AwsAssumeRole { .. } | Self::AliyunOidc { .. } => None,
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

/// Life of a session that STS gives out, in seconds: 3600 (so that 30 minutes are left when it is renewed) to 43200.
/// Source: STS AssumeRole, `DurationSeconds`; the lower bound is podmeta's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct SessionDuration(u16);

impl SessionDuration {
    /// What both clouds' STS give when nothing is asked for.
    pub const HOUR: Self = Self(3600);

    /// The life in seconds.
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
