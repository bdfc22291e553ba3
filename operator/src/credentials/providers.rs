//! The providers of cloud sessions.

mod aliyun_errors;
mod aliyun_oidc;
mod aws;
mod aws_assume_role;
mod aws_operator;
mod aws_web_identity;
#[cfg(test)]
pub(crate) mod tests;

use aws_sdk_sts::config::SharedCredentialsProvider;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, FailureCause};

use super::failure::ProviderError;
use super::pod_token::PodTokens;
use super::request::{CloudRole, RoleRequest};
use super::settings::CredentialsArgs;
use aliyun_oidc::AliyunSts;
use aws::AwsSts;

pub use aws_operator::operator_credentials;

/// A new session of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The credentials.
    pub credentials: Credentials,
    /// The request ID of the cloud.
    pub request_id: Option<String>,
}

/// The clients of all providers.
pub struct Providers {
    tokens: PodTokens,
    aws: AwsSts,
    aliyun: AliyunSts,
}

impl Providers {
    /// Creates the clients. They open no connection. `operator` are the operator's own credentials, for `awsAssumeRole`.
    #[must_use]
    pub fn new(args: &CredentialsArgs, operator: SharedCredentialsProvider, tokens: PodTokens) -> Self {
        Self { tokens, aws: AwsSts::new(args, operator), aliyun: AliyunSts::new(args) }
    }

    /// Creates a session. Calls the cloud once.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn create_session(&self, request: &RoleRequest, now: Timestamp) -> Result<Session, ProviderError> {
        let account = request.service_account.as_deref();
        let session = match &request.role {
            CloudRole::AwsWebIdentity { role_arn, audience } => {
                self.aws.check_partition(role_arn)?;
                let token = self.tokens.request(&request.pod, account, audience).await?;
                aws_web_identity::create_session(self.aws.unsigned(), request, role_arn, &token, now).await?
            }
            CloudRole::AwsAssumeRole { role_arn, external_id } => {
                self.aws.check_partition(role_arn)?;
                aws_assume_role::create_session(self.aws.signed(), request, role_arn, external_id, now).await?
            }
            CloudRole::AliyunOidc { role_arn, oidc_provider_arn } => {
                let token = self.tokens.request(&request.pod, account, aliyun_oidc::AUDIENCE).await?;
                self.aliyun.create_session(request, role_arn, oidc_provider_arn, &token, now).await?
            }
        };
        if session.credentials.expiration <= now {
            let detail = "the session of the response has already expired: check the clock of the operator's node";
            return Err(ProviderError::new(FailureCause::ProviderUnavailable, detail));
        }
        Ok(session)
    }
}
