//! Calls of the providers to a stub of the clouds' STS, and to a fake API server for tokens.

use std::sync::{Arc, Mutex};

use aws_sdk_sts::config::Credentials as OperatorKeys;
use clap::Parser as _;
use http::Method;
use podmeta_metadata::role::SessionDuration;
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::credentials::request::tests::web_identity;
use crate::credentials::session::session_name;
use crate::credentials::stub_sts::{REQUEST_ID, StubRequest, StubSts, aws_error, aws_response};
use crate::credentials::token_policy::TokenPolicyState;

const EXPIRATION: &str = "2099-01-01T00:00:00Z";
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    credentials: CredentialsArgs,
}

/// Returns settings with the endpoint of both clouds.
pub(crate) fn settings(url: &str) -> CredentialsArgs {
    let endpoints = [format!("--aws-sts-endpoint={url}"), format!("--aliyun-sts-endpoint={url}")];
    parse_settings(&[&endpoints[0], &endpoints[1], "--sts-calls-per-second=1000"])
}

/// Returns the settings of flags.
pub(crate) fn parse_settings(flags: &[&str]) -> CredentialsArgs {
    Flags::try_parse_from(["test"].iter().chain(flags)).unwrap().credentials
}

/// Returns providers that call a stub, and the API server of their tokens.
pub(crate) fn providers(url: &str) -> (Providers, FakeApiServer) {
    let (client, server) = FakeApiServer::new();
    let args = settings(url);
    let (_, policy) = watch::channel(TokenPolicyState::Enforced);
    let tokens = PodTokens::new(client, args.token_audiences.clone(), policy);
    let keys = OperatorKeys::new("AKIAOPERATOR", "hunter-operator", None, None, "test");
    (Providers::new(&args, SharedCredentialsProvider::new(keys), tokens), server)
}

pub(crate) async fn issue_token(server: &mut FakeApiServer, audience: &str) {
    let request = server.expect(Method::POST, "/api/v1/namespaces/shop/serviceaccounts/web/token").await;
    assert_eq!(request.body["spec"]["audiences"], json!([audience]));
    let status = json!({"token": "hunter-token", "expirationTimestamp": EXPIRATION});
    request.respond(&json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
}

/// Returns the request of a pod for an `awsAssumeRole` role.
pub(crate) fn assume_role(pod: &str) -> RoleRequest {
    let role_arn = "arn:aws:iam::123456789012:role/web".try_into().unwrap();
    let role = CloudRole::AwsAssumeRole { role_arn, external_id: "cluster/shop".into() };
    RoleRequest { role, duration: SessionDuration::try_from(7200).unwrap(), ..web_identity("shop", pod) }
}

/// Returns the request of a pod for an `aliyunOidc` role.
pub(crate) fn aliyun_oidc() -> RoleRequest {
    let role = CloudRole::AliyunOidc {
        role_arn: "acs:ram::1234567890123456:role/web".try_into().unwrap(),
        oidc_provider_arn: "acs:ram::1234567890123456:oidc-provider/ack".into(),
    };
    RoleRequest { role, ..web_identity("shop", "u1") }
}

/// Starts a stub that records its last request.
async fn recording_stub(response: String) -> (StubSts, Arc<Mutex<Option<StubRequest>>>) {
    let last = Arc::new(Mutex::new(None));
    let recorded = Arc::clone(&last);
    let stub = StubSts::start(move |request| {
        *recorded.lock().unwrap() = Some(request);
        (200, response.clone())
    });
    (stub.await, last)
}

#[tokio::test]
async fn web_identity_call_is_unsigned_and_has_the_pods_token() {
    let (stub, last) = recording_stub(aws_response("AssumeRoleWithWebIdentity", EXPIRATION)).await;
    let (providers, mut server) = providers(&stub.url);
    let request = web_identity("shop", "u1");
    let (session, ()) =
        tokio::join!(providers.create_session(&request, NOW), issue_token(&mut server, "sts.amazonaws.com"));
    let session = session.unwrap();
    assert_eq!(
        (session.credentials.access_key_id.as_str(), session.request_id.as_deref()),
        ("ASIA1", Some(REQUEST_ID))
    );
    assert_eq!(session.credentials.secret_access_key.expose(), "hunter2");
    assert_eq!(session.credentials.session_token.expose(), "hunter3");
    assert_eq!((session.credentials.last_updated, session.credentials.expiration), (NOW, EXPIRATION.parse().unwrap()));
    let sent = last.lock().unwrap().take().unwrap();
    let expected = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", "arn:aws:iam::123456789012:role/web"),
        ("RoleSessionName", &session_name(&request.pod)),
        ("WebIdentityToken", "hunter-token"),
        ("DurationSeconds", "3600"),
    ];
    assert_eq!(sent.form, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert!(!sent.headers.contains_key("authorization"), "{:?}", sent.headers);
}

#[tokio::test]
async fn assume_role_call_is_signed_and_has_the_external_id_and_the_tags_of_the_pod() {
    let (stub, last) = recording_stub(aws_response("AssumeRole", EXPIRATION)).await;
    let (providers, _server) = providers(&stub.url);
    let request = assume_role("u1");
    providers.create_session(&request, NOW).await.unwrap();
    let sent = last.lock().unwrap().take().unwrap();
    let authorization = sent.headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIAOPERATOR/"), "{authorization}");
    assert!(authorization.contains("/us-east-1/sts/aws4_request"), "{authorization}");
    for (key, value) in [
        ("Action", "AssumeRole"),
        ("ExternalId", "cluster/shop"),
        ("RoleSessionName", &session_name(&request.pod)),
        ("DurationSeconds", "7200"),
    ] {
        assert_eq!(sent.form[key], value);
    }
    let tag = |number: u32| {
        let part = |part: &str| sent.form.get(&format!("Tags.member.{number}.{part}")).cloned();
        part("Key").zip(part("Value"))
    };
    let tags: Vec<(String, String)> = (1..).map_while(tag).collect();
    let expected = [
        ("kubernetes-namespace", "shop"),
        ("kubernetes-pod-name", "u1"),
        ("kubernetes-pod-uid", "u1"),
        ("kubernetes-node", "n1"),
        ("kubernetes-service-account", "web"),
    ];
    assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn aliyun_call_is_unsigned_and_has_the_pods_token() {
    let body = json!({"RequestId": "R", "Credentials": {
        "AccessKeyId": "STS.1", "AccessKeySecret": "hunter2", "SecurityToken": "hunter3", "Expiration": EXPIRATION,
    }});
    let (stub, last) = recording_stub(body.to_string()).await;
    let (providers, mut server) = providers(&stub.url);
    let request = aliyun_oidc();
    let (session, ()) =
        tokio::join!(providers.create_session(&request, NOW), issue_token(&mut server, "sts.aliyuncs.com"));
    assert_eq!(session.unwrap().credentials.access_key_id, "STS.1");
    let sent = last.lock().unwrap().take().unwrap();
    let query = ["Action", "Format", "Version", "Timestamp"].map(|key| sent.query[key].as_str());
    assert_eq!(query, ["AssumeRoleWithOIDC", "JSON", "2015-04-01", "1970-01-01T00:00:00Z"]);
    assert_eq!(sent.query.len(), 4);
    let expected = [
        ("RoleArn", "acs:ram::1234567890123456:role/web"),
        ("OIDCProviderArn", "acs:ram::1234567890123456:oidc-provider/ack"),
        ("OIDCToken", "hunter-token"),
        ("RoleSessionName", &session_name(&request.pod)),
        ("DurationSeconds", "3600"),
    ];
    assert_eq!(sent.form, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
}

#[tokio::test]
async fn error_of_aws_has_its_cause_and_request_id() {
    for (status, code, cause) in [
        (403, "AccessDenied", FailureCause::AccessDenied),
        (400, "InvalidIdentityToken", FailureCause::InvalidIdentityToken),
        (403, "IDPRejectedClaim", FailureCause::InvalidIdentityToken),
        (400, "ExpiredTokenException", FailureCause::ExpiredToken),
        (400, "Throttling", FailureCause::Throttled),
        (400, "IDPCommunicationError", FailureCause::ProviderUnavailable),
        (500, "InternalFailure", FailureCause::ProviderUnavailable),
        (400, "ValidationError", FailureCause::ProviderFailed),
    ] {
        let stub = StubSts::start(move |_| (status, aws_error(code, "no trust"))).await;
        let error = providers(&stub.url).0.create_session(&assume_role("u1"), Timestamp::now()).await.unwrap_err();
        assert_eq!((error.cause, error.request_id.as_deref()), (cause, Some(REQUEST_ID)), "{code} {error:?}");
        assert_eq!(error.detail, format!("AWS STS: {code} ({status}): no trust"));
        assert_eq!(stub.calls(), 1, "the client does not retry");
    }
}

/// Starts a stub that rejects the time of a request as each of the clouds does.
/// Source: `Signature expired` of AWS STS (EngineerBetter/control-tower issue 51), common errors of Alibaba Cloud.
async fn stub_that_rejects_the_time() -> StubSts {
    StubSts::start(|request| match request.query.get("Action") {
        Some(_) => {
            let message = "Specified time stamp or date value is expired.";
            (400, json!({"RequestId": "R", "Code": "InvalidTimeStamp.Expired", "Message": message}).to_string())
        }
        None => (403, aws_error("SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2")),
    })
    .await
}

#[tokio::test]
async fn rejection_names_a_wrong_clock_of_the_operator() {
    let stub = stub_that_rejects_the_time().await;
    let (providers, mut server) = providers(&stub.url);
    for (seconds, statement) in [
        (0, None),
        (-16 * 60 - 30, Some("; the clock of the operator's node is wrong; correct it")),
        (16 * 60 + 30, Some("; the clock of the operator's node is wrong; correct it")),
    ] {
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        for request in [assume_role("u1"), aliyun_oidc()] {
            let token = async {
                if matches!(request.role, CloudRole::AliyunOidc { .. }) {
                    issue_token(&mut server, "sts.aliyuncs.com").await;
                }
            };
            let (session, ()) = tokio::join!(providers.create_session(&request, now), token);
            let error = session.unwrap_err();
            let failure = error.to_failure(&request.role, now);
            assert_eq!(failure.cause, FailureCause::ProviderFailed, "{error:?}");
            for text in [&error.detail, &failure.message] {
                assert_eq!(text.contains("clock"), statement.is_some(), "{text}");
                assert!(text.ends_with(statement.unwrap_or_default()), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn invalid_response_of_aws_is_unavailable_and_its_error_has_no_secret() {
    let garbage = aws_response("AssumeRole", "hunter");
    for (status, body, cause) in [
        (200, "", FailureCause::ProviderUnavailable),
        (200, "<html>hunter", FailureCause::ProviderUnavailable),
        (200, garbage.as_str(), FailureCause::ProviderUnavailable),
        (502, "<html>bad gateway</html>", FailureCause::ProviderUnavailable),
        (429, "", FailureCause::Throttled),
    ] {
        let text = body.to_owned();
        let stub = StubSts::start(move |_| (status, text.clone())).await;
        let error = providers(&stub.url).0.create_session(&assume_role("u1"), NOW).await.unwrap_err();
        assert_eq!(error.cause, cause, "{status} {body} {error:?}");
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    }
}

#[tokio::test]
async fn unreachable_endpoint_is_unavailable() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (providers, mut server) = providers(&format!("http://{closed}"));
    let error = providers.create_session(&assume_role("u1"), NOW).await.unwrap_err();
    assert_eq!(error.cause, FailureCause::ProviderUnavailable, "{error:?}");
    let request = aliyun_oidc();
    let (error, ()) =
        tokio::join!(providers.create_session(&request, NOW), issue_token(&mut server, "sts.aliyuncs.com"));
    assert_eq!(error.unwrap_err().cause, FailureCause::ProviderUnavailable);
}

#[tokio::test]
async fn session_that_has_expired_by_the_operators_clock_is_unavailable() {
    let stub = StubSts::start(|_| (200, aws_response("AssumeRole", EXPIRATION))).await;
    let late = EXPIRATION.parse().unwrap();
    let error = providers(&stub.url).0.create_session(&assume_role("u1"), late).await.unwrap_err();
    assert!(error.cause == FailureCause::ProviderUnavailable && error.detail.contains("clock"), "{error:?}");
}

#[tokio::test]
async fn role_of_another_partition_causes_no_token_and_no_call() {
    let stub = StubSts::start(|_| (200, String::new())).await;
    let (providers, mut server) = providers(&stub.url);
    for partition in ["aws-cn", "aws-us-gov", "x"] {
        let role_arn = format!("arn:{partition}:iam::123456789012:role/web").try_into().unwrap();
        let role = CloudRole::AwsWebIdentity { role_arn, audience: "sts.amazonaws.com".into() };
        let request = RoleRequest { role, ..web_identity("shop", "u1") };
        let error = providers.create_session(&request, NOW).await.unwrap_err();
        assert!(error.detail.contains("partition aws "), "{error:?}");
    }
    assert_eq!(stub.calls(), 0);
    server.expect_none(std::time::Duration::from_millis(1)).await;
}
