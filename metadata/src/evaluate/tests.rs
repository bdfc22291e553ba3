use http::header::HOST;
use http::{HeaderMap, HeaderValue, Uri, Version};

use super::*;
use crate::fixture::{Case, link};
use crate::options::ProcessUsers;
use crate::path::CanonicalPath;
use crate::request::TOKEN_PATH;
use crate::session::{KeyBytes, LastToken};

const USER: u32 = 1000;

/// A request and its context. The default is a request that is served.
struct Attempt {
    case: Case,
    pod: fn(RequestPod<'_>) -> RequestPod<'_>,
    rate_limited: bool,
    host_rule: HostRule,
    user: SocketUser,
    service: &'static str,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    has_token: bool,
    nonce: Option<Nonce>,
}

impl Attempt {
    fn new() -> Self {
        Self {
            case: Case::new(),
            pod: |pod| pod,
            rate_limited: false,
            host_rule: HostRule::POD_LINK,
            user: SocketUser::Known(USER),
            service: "169.254.169.254",
            method: Method::GET,
            path: "/latest/meta-data/instance-id",
            headers: vec![("host", "169.254.169.254")],
            has_token: true,
            nonce: Some([7; 16]),
        }
    }

    fn rejection(&self) -> Option<Rejection> {
        let now = "2026-01-05T08:00:00Z".parse().unwrap();
        let keys = Keyring::new(KeyBytes::new([7; 32]), now);
        let workload = self.case.workload();
        let tree = Dialect::Ec2.protocol().render(&workload, &link());
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, HeaderValue::from_static(value));
        }
        if self.has_token {
            let token = keys.issue(&workload.pod.uid, Dialect::Ec2, TokenTtl::MAX, [7; 16], now).unwrap();
            headers.insert("x-aws-ec2-metadata-token", HeaderValue::try_from(token).unwrap());
        }
        let path = CanonicalPath::parse(self.path);
        let request = Request {
            method: &self.method,
            uri: &Uri::from_static(self.path),
            path: path.as_ref(),
            version: Version::HTTP_11,
            headers: &headers,
            service: self.service.parse().unwrap(),
            session: &LastToken::default(),
        };
        let user = || self.user;
        let edge = EdgeChecks {
            rate_limited: self.rate_limited,
            host_rule: &self.host_rule,
            socket_user: &user,
            nonce: &|| self.nonce,
        };
        let state = (self.pod)(RequestPod::Served { workload: &workload, tree: tree.as_ref() });
        evaluate(Dialect::Ec2, &request, state, &edge, &keys, now).err().map(|rejected| rejected.rejection)
    }
}

/// Adds one defect after another, from that of the last check to that of the first. The rejection must be that of the
/// first check that fails.
#[test]
fn checks_run_in_the_documented_order() {
    let mut attempt = Attempt::new();
    assert_eq!(attempt.rejection(), None);
    attempt.path = "/latest/meta-data/none";
    assert_eq!(attempt.rejection(), Some(Rejection::NotFound));
    attempt.method = Method::POST;
    assert_eq!(attempt.rejection(), Some(Rejection::Method));
    attempt.has_token = false;
    assert_eq!(attempt.rejection(), Some(Rejection::TokenMissing));
    attempt.method = Method::PUT;
    attempt.path = TOKEN_PATH;
    assert_eq!(attempt.rejection(), Some(Rejection::BadTtl));
    attempt.headers.push(("x-forwarded-for", "10.0.0.1"));
    assert_eq!(attempt.rejection(), Some(Rejection::ForwardedFor));
    attempt.method = Method::GET;
    assert_eq!(attempt.rejection(), Some(Rejection::TokenPathMethod));
    attempt.headers.push(("content-length", "100000"));
    assert_eq!(attempt.rejection(), Some(Rejection::BodyTooLong));
    attempt.headers.push(("transfer-encoding", "chunked"));
    assert_eq!(attempt.rejection(), Some(Rejection::Malformed("it has a Transfer-Encoding")));
    attempt.service = "fd00:ec2::254";
    assert_eq!(attempt.rejection(), Some(Rejection::Ipv6Disabled));
    attempt.case.profile_mut().options.http_endpoint = HttpEndpoint::Disabled;
    assert_eq!(attempt.rejection(), Some(Rejection::EndpointDisabled));
    attempt.case.profile_mut().dialects.remove(&Dialect::Ec2);
    assert_eq!(attempt.rejection(), Some(Rejection::DialectOff));
    attempt.case.profile_mut().users = ProcessUsers { allowed: vec![1], denied: vec![] };
    assert_eq!(attempt.rejection(), Some(Rejection::UserNotAllowed));
    attempt.user = SocketUser::LookupFailed;
    assert!(matches!(attempt.rejection(), Some(Rejection::Unavailable(_))));
    attempt.headers.retain(|(name, _)| *name != HOST);
    assert!(matches!(attempt.rejection(), Some(Rejection::Unavailable(_))));
    attempt.host_rule.requires_host = true;
    assert_eq!(attempt.rejection(), Some(Rejection::Malformed("it has no Host")));
    attempt.rate_limited = true;
    assert_eq!(attempt.rejection(), Some(Rejection::TooManyRequests));
    attempt.pod = |_| RequestPod::Unknown;
    assert!(matches!(attempt.rejection(), Some(Rejection::Unavailable(_))));
}

#[test]
fn denied_pod_is_rejected_after_the_rate_limit_with_its_reason() {
    let reason = DenialReason::new("test");
    let (now, uri) = ("2026-01-05T08:00:00Z".parse().unwrap(), Uri::from_static("/"));
    let (headers, session) = (HeaderMap::new(), LastToken::default());
    let request = Request {
        method: &Method::GET,
        uri: &uri,
        path: None,
        version: Version::HTTP_11,
        headers: &headers,
        service: "169.254.169.254".parse().unwrap(),
        session: &session,
    };
    let keys = Keyring::new(KeyBytes::new([7; 32]), now);
    let reject = |rate_limited| {
        let edge = EdgeChecks {
            rate_limited,
            host_rule: &HostRule::POD_LINK,
            socket_user: &|| SocketUser::NotFound,
            nonce: &|| None,
        };
        evaluate(Dialect::Ec2, &request, RequestPod::Denied(&reason), &edge, &keys, now).unwrap_err().rejection
    };
    assert_eq!(reject(false), Rejection::PodDenied(reason.clone()));
    assert_eq!(reject(true), Rejection::TooManyRequests);
}

#[test]
fn user_of_the_socket_is_checked_only_if_users_are_restricted() {
    let failed = Rejection::Unavailable("cannot find the user of the client; retry later".to_owned());
    let outcomes = [
        (SocketUser::NotFound, Some(Rejection::UserNotAllowed)),
        (SocketUser::LookupFailed, Some(failed)),
        (SocketUser::Known(USER), None),
    ];
    for (user, rejection) in outcomes {
        let mut attempt = Attempt { user, ..Attempt::new() };
        assert_eq!(attempt.rejection(), None, "{user:?}");
        for (allowed, denied) in [(vec![USER], vec![]), (vec![], vec![USER + 1])] {
            attempt.case.profile_mut().users = ProcessUsers { allowed, denied };
            assert_eq!(attempt.rejection(), rejection, "{user:?}");
        }
    }
}

#[test]
fn token_request_without_random_bytes_is_unavailable() {
    let mut attempt = Attempt::new();
    (attempt.method, attempt.path, attempt.nonce) = (Method::PUT, TOKEN_PATH, None);
    attempt.headers.push(("x-aws-ec2-metadata-token-ttl-seconds", "60"));
    assert!(matches!(attempt.rejection(), Some(Rejection::Unavailable(_))));
    attempt.nonce = Some([7; 16]);
    assert_eq!(attempt.rejection(), None);
}
