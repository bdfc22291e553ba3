//! The clients of AWS STS, and its errors.

use std::time::Duration;

use aws_sdk_sts::Client;
use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{BehaviorVersion, Builder, Config, Region, SharedCredentialsProvider, SharedHttpClient};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId as _;
use aws_sdk_sts::types;
use aws_smithy_http_client::tls;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, FailureCause};
use podmeta_metadata::names::RoleArn;
use podmeta_metadata::secret::SecretString;

use super::Session;
use crate::cluster::events::format_chain;
use crate::credentials::failure::ProviderError;
use crate::credentials::settings::{AwsPartition, CredentialsArgs};

/// The timeout to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The timeout of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The clients of AWS STS. They do not retry: the cache retries, with backoff and within the rate limit.
pub(super) struct AwsSts {
    partition: AwsPartition,
    unsigned: Client,
    signed: Client,
}

impl AwsSts {
    pub(super) fn new(args: &CredentialsArgs, operator: SharedCredentialsProvider) -> Self {
        let http_client = http_client();
        Self {
            partition: args.aws_region.partition(),
            unsigned: Client::from_conf(config(args, http_client.clone()).build()),
            signed: Client::from_conf(config(args, http_client).credentials_provider(operator).build()),
        }
    }

    /// Returns the client of calls that are not signed.
    pub(super) fn unsigned(&self) -> &Client {
        &self.unsigned
    }

    /// Returns the client that signs with the operator's own credentials.
    pub(super) fn signed(&self) -> &Client {
        &self.signed
    }

    /// Checks that a role is in the partition of the endpoint.
    pub(super) fn check_partition(&self, role: &RoleArn) -> Result<(), ProviderError> {
        let partition = self.partition.to_string();
        if role.as_str().split(':').nth(1) == Some(partition.as_str()) {
            return Ok(());
        }
        let detail = format!("the role {role} is not in the partition {partition} of --aws-region");
        Err(ProviderError::new(FailureCause::ProviderFailed, detail))
    }
}

pub(super) fn http_client() -> SharedHttpClient {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    aws_smithy_http_client::Builder::new().tls_provider(provider).build_https()
}

/// Returns the settings of all calls: endpoint, region and timeouts.
pub(super) fn config(args: &CredentialsArgs, http_client: SharedHttpClient) -> Builder {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .region(Region::new(args.aws_region.name().to_owned()))
        .use_fips(args.aws_fips);
    match &args.aws_sts_endpoint {
        Some(endpoint) => config.endpoint_url(endpoint.uri().to_string()),
        None => config,
    }
}

/// Converts the result of a call that succeeded.
pub(super) fn to_session(
    credentials: Option<types::Credentials>,
    request_id: Option<&str>,
    now: Timestamp,
) -> Result<Session, ProviderError> {
    let invalid =
        |what| ProviderError::new(FailureCause::ProviderUnavailable, format!("the response of AWS STS {what}"));
    let credentials = credentials.ok_or_else(|| invalid("has no credentials"))?;
    if credentials.access_key_id.is_empty() || credentials.secret_access_key.is_empty() {
        return Err(invalid("has empty credentials"));
    }
    let expiration = Timestamp::from_second(credentials.expiration.secs());
    Ok(Session {
        credentials: Credentials {
            access_key_id: credentials.access_key_id,
            secret_access_key: SecretString::new(credentials.secret_access_key),
            session_token: SecretString::new(credentials.session_token),
            last_updated: now,
            expiration: expiration.map_err(|_| invalid("has an invalid expiration"))?,
        },
        request_id: request_id.map(str::to_owned),
    })
}

/// Converts the error of a call. The error text of the SDK contains neither the request nor the body of
/// the response.
pub(super) fn to_provider_error<E>(error: &SdkError<E, HttpResponse>, now: Timestamp) -> ProviderError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (cause, detail) = match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code();
            let message = service.err().message().unwrap_or_default();
            (cause_of(code, status), format!("AWS STS: {} ({status}): {message}", code.unwrap_or("unknown error")))
        }
        // No response, or an invalid one.
        _ => (FailureCause::ProviderUnavailable, format!("cannot call AWS STS: {}", format_chain(error))),
    };
    let date = error.raw_response().and_then(|response| response.headers().get("date"));
    let request_id = error.request_id().map(str::to_owned);
    ProviderError { request_id, ..ProviderError::new(cause, detail) }.with_date(date, now)
}

/// Returns the cause of an error code. Source: AWS STS API reference, common errors, and the errors of
/// `AssumeRole` and `AssumeRoleWithWebIdentity`.
fn cause_of(code: Option<&str>, status: u16) -> FailureCause {
    match code {
        Some("AccessDenied" | "AccessDeniedException") => FailureCause::AccessDenied,
        Some("InvalidIdentityToken" | "InvalidIdentityTokenException" | "IDPRejectedClaim") => {
            FailureCause::InvalidIdentityToken
        }
        Some("ExpiredToken" | "ExpiredTokenException") => FailureCause::ExpiredToken,
        Some("Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequestsException") => {
            FailureCause::Throttled
        }
        Some("IDPCommunicationError" | "InternalFailure" | "InternalError" | "ServiceUnavailable") => {
            FailureCause::ProviderUnavailable
        }
        _ if status == 429 => FailureCause::Throttled,
        _ if status >= 500 || code.is_none() => FailureCause::ProviderUnavailable,
        _ => FailureCause::ProviderFailed,
    }
}
