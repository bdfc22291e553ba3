//! `aliyunOidc`: AssumeRoleWithOIDC of Alibaba Cloud with a token of the pod's ServiceAccount. The call is not signed.
//! Source: AssumeRoleWithOIDC, version 2015-04-01, and the common parameters and errors of RPC calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, FailureCause};
use podmeta_metadata::names::RoleArn;
use podmeta_metadata::secret::{JsonErrorPosition, SecretString};
use podmeta_metadata::time::rfc3339;
use serde::Deserialize;
use tokio::time::timeout;

use super::Session;
use super::aliyun_errors::cause_of;
use crate::cluster::events::format_chain;
use crate::credentials::failure::ProviderError;
use crate::credentials::request::RoleRequest;
use crate::credentials::session::session_name;
use crate::credentials::settings::{CredentialsArgs, StsEndpoint};

/// The audience of tokens for Alibaba Cloud. Source: RAM Roles for Service Accounts (RRSA) of ACK.
pub(super) const AUDIENCE: &str = "sts.aliyuncs.com";

/// The timeout of opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The timeout of a call, including that of opening the connection.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Maximum length of a response, in bytes. Responses have about 4 KiB.
const MAX_RESPONSE: usize = 64 * 1024;

/// The client of Alibaba Cloud's STS.
pub(super) struct AliyunSts {
    endpoint: StsEndpoint,
    /// The client, or an error if the host has no root certificates. The other providers work without this client.
    client: Result<HttpsClient, String>,
}

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl AliyunSts {
    pub(super) fn new(args: &CredentialsArgs) -> Self {
        let public = || StsEndpoint::aliyun_sts(args.aliyun_region.as_ref());
        let endpoint = args.aliyun_sts_endpoint.clone().unwrap_or_else(public);
        Self { endpoint, client: https_client().map_err(|error| format!("no root certificates: {error}")) }
    }

    /// Requests a session for a role with a token of the pod's ServiceAccount.
    pub(super) async fn create_session(
        &self,
        request: &RoleRequest,
        role: &RoleArn,
        oidc_provider: &str,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Session, ProviderError> {
        let call = self.request(request, role, oidc_provider, token, now)?;
        let unavailable = |error: &str| {
            ProviderError::new(FailureCause::ProviderUnavailable, format!("cannot call Alibaba Cloud STS: {error}"))
        };
        let client = self.client.as_ref().map_err(|error| unavailable(error))?;
        let response = async {
            let response = client.request(call).await.map_err(|error| unavailable(&format_chain(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE).collect().await;
            Ok((head, body.map_err(|error| unavailable(&format_chain(&*error)))?.to_bytes()))
        };
        let (head, body) = timeout(CALL_TIMEOUT, response).await.map_err(|_| unavailable("timeout"))??;
        let date = head.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        parse(head.status.as_u16(), &body, now).map_err(|error| error.with_date(date, now))
    }

    /// Creates the HTTP request of a call.
    fn request(
        &self,
        request: &RoleRequest,
        role: &RoleArn,
        oidc_provider: &str,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Request<Full<Bytes>>, ProviderError> {
        let query = form_urlencoded::Serializer::for_suffix("/?".to_owned(), "/?".len())
            .append_pair("Action", "AssumeRoleWithOIDC")
            .append_pair("Format", "JSON")
            .append_pair("Version", "2015-04-01")
            .append_pair("Timestamp", &rfc3339(now))
            .finish();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("RoleArn", role.as_str())
            .append_pair("OIDCProviderArn", oidc_provider)
            .append_pair("OIDCToken", token.expose())
            .append_pair("RoleSessionName", &session_name(&request.pod))
            .append_pair("DurationSeconds", &request.duration.seconds().to_string())
            .finish();
        let internal = |error: http::Error| {
            ProviderError::new(FailureCause::ProviderFailed, format!("internal error: invalid request: {error}"))
        };
        let mut parts = self.endpoint.uri().clone().into_parts();
        parts.path_and_query = Some(query.parse().map_err(|error| internal(http::Error::from(error)))?);
        let uri = Uri::from_parts(parts).map_err(|error| internal(error.into()))?;
        Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::from(form))
            .map_err(internal)
    }
}

fn https_client() -> Result<HttpsClient, std::io::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)?
        .https_or_http() // the URL of the endpoint decides
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuccessResponse {
    request_id: Option<String>,
    credentials: AliyunCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AliyunCredentials {
    access_key_id: String,
    access_key_secret: SecretString,
    security_token: SecretString,
    expiration: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorResponse {
    request_id: Option<String>,
    code: String,
    #[serde(default)]
    message: String,
}

/// Parses a response. If its JSON is invalid, the error contains no part of the response, because that can be a secret.
fn parse(status: u16, body: &[u8], now: Timestamp) -> Result<Session, ProviderError> {
    if status != 200 {
        let Ok(error) = serde_json::from_slice::<ErrorResponse>(body) else {
            let cause = if status == 429 { FailureCause::Throttled } else { FailureCause::ProviderUnavailable };
            return Err(ProviderError::new(cause, format!("Alibaba Cloud STS: status {status} without an error code")));
        };
        let detail = format!("Alibaba Cloud STS: {} ({status}): {}", error.code, error.message);
        return Err(ProviderError {
            request_id: error.request_id,
            ..ProviderError::new(cause_of(&error.code, status), detail)
        });
    }
    let response: SuccessResponse = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("cannot parse the response of Alibaba Cloud STS: {}", JsonErrorPosition::from(&error));
        ProviderError::new(FailureCause::ProviderUnavailable, detail)
    })?;
    let credentials = response.credentials;
    Ok(Session {
        credentials: Credentials {
            access_key_id: credentials.access_key_id,
            secret_access_key: credentials.access_key_secret,
            session_token: credentials.security_token,
            last_updated: now,
            expiration: credentials.expiration,
        },
        request_id: response.request_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn response_of_the_documentation_is_parsed() {
        let body = br#"{"RequestId":"3D57EAD2-8723-1F26-B69C-F8707D8B565D","OIDCTokenInfo":{"Subject":"s"},
            "AssumedRoleUser":{"AssumedRoleId":"33157794895460","Arn":"acs:ram::113511544585:role/testoidc/x"},
            "Credentials":{"SecurityToken":"CAIShwJ1","Expiration":"2021-10-20T04:27:09Z",
            "AccessKeySecret":"CVwjCkNzTMupZ8NbTCxC","AccessKeyId":"STS.NUgYrLnoC37mZZ"}}"#;
        let session = parse(200, body, NOW).unwrap();
        assert_eq!(session.request_id.as_deref(), Some("3D57EAD2-8723-1F26-B69C-F8707D8B565D"));
        assert_eq!(session.credentials.access_key_id, "STS.NUgYrLnoC37mZZ");
        assert_eq!(session.credentials.session_token.expose(), "CAIShwJ1");
        assert_eq!(session.credentials.expiration, "2021-10-20T04:27:09Z".parse().unwrap());
    }

    #[test]
    fn error_response_has_its_cause_code_and_request_id() {
        let body = br#"{"RequestId":"R","HostId":"sts.aliyuncs.com","Code":"NoPermission","Message":"m"}"#;
        let error = parse(403, body, NOW).unwrap_err();
        assert_eq!((error.cause, error.request_id.as_deref()), (FailureCause::AccessDenied, Some("R")));
        assert_eq!(error.detail, "Alibaba Cloud STS: NoPermission (403): m");
    }

    #[test]
    fn invalid_response_is_unavailable_and_its_error_has_no_secret() {
        for (status, body) in [
            (200, ""),
            (200, "<html>"),
            (200, "{}"),
            (200, r#"{"Credentials":"hunter2"}"#),
            (
                200,
                r#"{"Credentials":{"AccessKeyId":"a","AccessKeySecret":"hunter2","SecurityToken":"t","Expiration":"hunter2"}}"#,
            ),
            (502, "<html>bad gateway</html>"),
        ] {
            let error = parse(status, body.as_bytes(), NOW).unwrap_err();
            assert_eq!(error.cause, FailureCause::ProviderUnavailable, "{body}");
            assert!(!error.detail.contains("hunter"), "{}", error.detail);
        }
        assert_eq!(parse(429, b"", NOW).unwrap_err().cause, FailureCause::Throttled);
    }
}
