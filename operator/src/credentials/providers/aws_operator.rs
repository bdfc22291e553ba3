//! The operator's own AWS credentials, for `awsAssumeRole`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::{
    BehaviorVersion, Builder, Credentials as OperatorKeys, ProvideCredentials, SharedCredentialsProvider,
};
use jiff::Timestamp;

use super::aws::{config, http_client, to_provider_error, to_session};
use crate::credentials::settings::CredentialsArgs;

/// The name of the provider in errors of the SDK.
const WEB_IDENTITY: &str = "WebIdentityToken";

/// The session name if `AWS_ROLE_SESSION_NAME` is not set.
const SESSION_NAME: &str = "podmeta-operator";

/// Returns the operator's own credentials: from the environment, a web identity token (IAM roles for service accounts) or a
/// container endpoint (EKS Pod Identity). The instance metadata service is not a source: podmeta or the
/// node would respond.
#[must_use]
pub fn operator_credentials(args: &CredentialsArgs) -> SharedCredentialsProvider {
    let web_identity = WebIdentityProvider::new(session_config(args), |name| std::env::var(name).ok());
    let container_config = ProviderConfig::without_region()
        .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
        .with_http_client(http_client());
    let chain = CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
        .or_else(WEB_IDENTITY, web_identity)
        .or_else("Container", EcsCredentialsProvider::builder().configure(&container_config).build());
    SharedCredentialsProvider::new(chain)
}

/// Returns the settings of the call for the operator's own session. The endpoint is that of the pods' sessions.
fn session_config(args: &CredentialsArgs) -> Builder {
    config(args, http_client()).retry_config(RetryConfig::standard())
}

/// Creates sessions with the token that IAM roles for service accounts mount into the operator's pod. The provider of the
/// SDK has no setting for the endpoint.
#[derive(Debug)]
struct WebIdentityProvider {
    client: Client,
    /// The role, or `None` if the environment names none.
    role: Option<WebIdentityRole>,
}

/// The variables that the webhook of IAM roles for service accounts sets.
/// Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-assume-role-credentials.html>
#[derive(Debug)]
struct WebIdentityRole {
    token_file: PathBuf,
    role_arn: String,
    session_name: String,
}

impl WebIdentityProvider {
    /// Creates a provider. `variable` returns a variable of the environment.
    fn new(config: Builder, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variables = variable("AWS_WEB_IDENTITY_TOKEN_FILE").zip(variable("AWS_ROLE_ARN"));
        let role = variables.map(|(token_file, role_arn)| WebIdentityRole {
            token_file: token_file.into(),
            role_arn,
            session_name: variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned()),
        });
        Self { client: Client::from_conf(config.build()), role }
    }

    /// Creates a session. Reads the token again, because the kubelet rotates it.
    async fn create_session(&self) -> Result<OperatorKeys, CredentialsError> {
        let Some(role) = &self.role else {
            return Err(CredentialsError::not_loaded("AWS_WEB_IDENTITY_TOKEN_FILE or AWS_ROLE_ARN is not set"));
        };
        let token = tokio::fs::read_to_string(&role.token_file).await.map_err(|error| {
            CredentialsError::provider_error(format!("cannot read the token {}: {error}", role.token_file.display()))
        })?;
        let call = self
            .client
            .assume_role_with_web_identity()
            .role_arn(&role.role_arn)
            .role_session_name(&role.session_name)
            .web_identity_token(token);
        let (response, now) = (call.send().await, Timestamp::now());
        let session = response
            .map_err(|error| to_provider_error(&error, now))
            .and_then(|response| to_session(response.credentials, None, now))
            .map_err(CredentialsError::provider_error)?
            .credentials;
        let seconds = u64::try_from(session.expiration.as_second()).unwrap_or_default();
        Ok(OperatorKeys::new(
            session.access_key_id,
            session.secret_access_key.expose(),
            Some(session.session_token.expose().to_owned()),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            WEB_IDENTITY,
        ))
    }
}

impl ProvideCredentials for WebIdentityProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.create_session())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_sts::config::interceptors::BeforeTransmitInterceptorContextRef;
    use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
    use aws_sdk_sts::error::BoxError;
    use podmeta_metadata::credentials::FailureCause;
    use tempfile::NamedTempFile;

    use super::*;
    use crate::credentials::providers::tests::{parse_settings, settings};
    use crate::credentials::stub_sts::{StubSts, aws_error, aws_response};

    const ROLE: &str = "arn:aws:iam::123456789012:role/podmeta-operator";

    /// Returns a provider with the variables that the webhook sets, and the file of its token.
    fn provider(config: Builder) -> (WebIdentityProvider, NamedTempFile) {
        let token_file = NamedTempFile::new().unwrap();
        std::fs::write(token_file.path(), "hunter-operator-token").unwrap();
        let path = token_file.path().to_str().unwrap();
        let variable = |name: &str| match name {
            "AWS_WEB_IDENTITY_TOKEN_FILE" => Some(path.to_owned()),
            "AWS_ROLE_ARN" => Some(ROLE.to_owned()),
            _ => None,
        };
        (WebIdentityProvider::new(config, variable), token_file)
    }

    /// Records the URL of each request, and fails the request before it is sent.
    #[derive(Clone, Debug, Default)]
    struct UrlRecorder(Arc<Mutex<Vec<String>>>);

    impl Intercept for UrlRecorder {
        fn name(&self) -> &'static str {
            "UrlRecorder"
        }

        fn read_before_transmit(
            &self,
            context: &BeforeTransmitInterceptorContextRef<'_>,
            _: &RuntimeComponents,
            _: &mut ConfigBag,
        ) -> Result<(), BoxError> {
            self.0.lock().unwrap().push(context.request().uri().to_owned());
            Err("recorded".into())
        }
    }

    #[tokio::test]
    async fn session_of_the_operator_is_requested_at_the_endpoint_of_the_flags() {
        for (flags, endpoint) in [
            (&[][..], "https://sts.us-east-1.amazonaws.com/"),
            (&["--aws-region=cn-north-1"], "https://sts.cn-north-1.amazonaws.com.cn/"),
            (&["--aws-fips"], "https://sts-fips.us-east-1.amazonaws.com/"),
            (&["--aws-sts-endpoint=https://sts.example:8443"], "https://sts.example:8443/"),
        ] {
            let recorder = UrlRecorder::default();
            let config = session_config(&parse_settings(flags)).interceptor(recorder.clone());
            let (provider, _token_file) = provider(config);
            let error = provider.provide_credentials().await.unwrap_err();
            assert_eq!(*recorder.0.lock().unwrap(), [endpoint], "{flags:?}: {error:?}");
        }
    }

    #[tokio::test]
    async fn session_of_the_operator_is_created_with_the_mounted_token() {
        let last = Arc::new(Mutex::new(None));
        let recorded = Arc::clone(&last);
        let stub = StubSts::start(move |request| {
            *recorded.lock().unwrap() = Some(request.form);
            (200, aws_response("AssumeRoleWithWebIdentity", "2099-01-01T00:00:00Z"))
        })
        .await;
        let (provider, token_file) = provider(session_config(&settings(&stub.url)));
        for token in ["hunter-operator-token", "hunter-rotated-token"] {
            std::fs::write(token_file.path(), token).unwrap();
            let keys = provider.provide_credentials().await.unwrap();
            assert_eq!(
                (keys.access_key_id(), keys.secret_access_key(), keys.session_token()),
                ("ASIA1", "hunter2", Some("hunter3"))
            );
            assert_eq!(keys.expiry(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_070_908_800)));
            let form = last.lock().unwrap().take().unwrap();
            let sent = ["RoleArn", "RoleSessionName", "WebIdentityToken"].map(|key| form[key].as_str());
            assert_eq!(sent, [ROLE, SESSION_NAME, token]);
        }
    }

    #[tokio::test]
    async fn rejected_session_of_the_operator_is_in_the_error_of_a_pods_session() {
        let stub = StubSts::start(|_| (400, aws_error("InvalidIdentityToken", "no provider"))).await;
        let args = settings(&stub.url);
        let (provider, _token_file) = provider(session_config(&args));
        assert!(!format!("{provider:?}").contains("hunter"), "{provider:?}");
        let client = Client::from_conf(config(&args, http_client()).credentials_provider(provider).build());
        let call = client.assume_role().role_arn(ROLE).role_session_name("shop.web-1").send().await;
        let error = to_provider_error(&call.unwrap_err(), Timestamp::now());
        assert_eq!(error.cause, FailureCause::ProviderUnavailable, "{error}");
        assert!(error.detail.contains("AWS STS: InvalidIdentityToken (400): no provider"), "{error}");
        assert!(!error.detail.contains("hunter"), "{error}");
    }

    #[tokio::test]
    async fn provider_without_variables_passes_to_the_next_one() {
        let provider = WebIdentityProvider::new(session_config(&parse_settings(&[])), |_| None);
        let error = provider.provide_credentials().await.unwrap_err();
        assert!(matches!(error, CredentialsError::CredentialsNotLoaded(_)), "{error:?}");
    }
}
