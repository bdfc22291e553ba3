//! `awsAssumeRole`: AssumeRole with the operator's own credentials, an external ID and session tags.

use aws_sdk_sts::Client;
use aws_sdk_sts::operation::RequestId as _;
use aws_sdk_sts::types::Tag;
use jiff::Timestamp;
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::names::RoleArn;

use super::Session;
use super::aws::{to_provider_error, to_session};
use crate::credentials::failure::ProviderError;
use crate::credentials::request::RoleRequest;
use crate::credentials::session::{session_name, session_tags};

pub(super) async fn create_session(
    client: &Client,
    request: &RoleRequest,
    role: &RoleArn,
    external_id: &str,
    now: Timestamp,
) -> Result<Session, ProviderError> {
    let tags = session_tags(request).into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    let tags: Vec<Tag> = tags.collect::<Result<_, _>>().map_err(|error| {
        ProviderError::new(FailureCause::ProviderFailed, format!("internal error: invalid session tag: {error}"))
    })?;
    let call = client
        .assume_role()
        .role_arn(role.as_str())
        .role_session_name(session_name(&request.pod))
        .external_id(external_id)
        .set_tags(Some(tags))
        .duration_seconds(request.duration.seconds().into());
    let response = call.send().await.map_err(|error| to_provider_error(&error, now))?;
    let request_id = response.request_id().map(str::to_owned);
    to_session(response.credentials, request_id.as_deref(), now)
}
