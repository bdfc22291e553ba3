//! `awsWebIdentity`: AssumeRoleWithWebIdentity with a token of the pod's ServiceAccount. The call is not signed.

use aws_sdk_sts::Client;
use aws_sdk_sts::operation::RequestId as _;
use jiff::Timestamp;
use podmeta_metadata::names::RoleArn;
use podmeta_metadata::secret::SecretString;

use super::Session;
use super::aws::{to_provider_error, to_session};
use crate::credentials::failure::ProviderError;
use crate::credentials::request::RoleRequest;
use crate::credentials::session::session_name;

pub(super) async fn create_session(
    client: &Client,
    request: &RoleRequest,
    role: &RoleArn,
    token: &SecretString,
    now: Timestamp,
) -> Result<Session, ProviderError> {
    let call = client
        .assume_role_with_web_identity()
        .role_arn(role.as_str())
        .role_session_name(session_name(&request.pod))
        .web_identity_token(token.expose())
        .duration_seconds(request.duration.seconds().into());
    let response = call.send().await.map_err(|error| to_provider_error(&error, now))?;
    let request_id = response.request_id().map(str::to_owned);
    to_session(response.credentials, request_id.as_deref(), now)
}
