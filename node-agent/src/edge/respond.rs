//! Responds to one request: applies the rate limit, evaluates the request, and gets data that is not in the tree.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use podmeta_metadata::compile::PodView;
use podmeta_metadata::credentials::CredentialsFailure;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::{Decision, EdgeChecks, RequestPod, evaluate};
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::rejection::{RejectedRequest, Rejection};
use podmeta_metadata::request::Request;
use podmeta_metadata::response::{ContentKind, HttpResponse, ItemResponse};
use podmeta_metadata::role::Role;
use podmeta_metadata::tree::{DocumentForm, LeafValue, Lookup};
use podmeta_metadata::workload::{Link, Workload};
use tokio::time::Instant;

use crate::broker::IssuedCredentials;
use crate::edge::connection::EdgeConnection;
use crate::edge::limit::{LimitExceeded, MAX_WAIT};
use crate::edge::pod::{DialectTree, EdgePod};
use crate::edge::{Edge, access};
use crate::keys;

/// Returns the response to a request of a dialect. `pod` is `None` if the pod is unknown. `is_admitted` is true if the rate
/// limit has admitted the request.
pub(super) async fn respond(
    edge: &Edge,
    dialect: Dialect,
    pod: Option<&EdgePod>,
    connection: &EdgeConnection,
    request: &Request<'_>,
    is_admitted: bool,
) -> Result<HttpResponse, RejectedRequest> {
    let rate_limited = match pod {
        Some(pod) if !is_admitted => wait_for_rate_limit(pod).await,
        Some(_) | None => false,
    };
    if let Some(pod) = pod
        && pod.restricts_users()
        && !rate_limited
    {
        // Boxed. Otherwise each connection would reserve memory for this future.
        Box::pin(connection.owner.look_up(connection.arrival.owner.as_deref(), pod)).await;
    }
    match evaluate_request(edge, dialect, pod, connection, request, rate_limited)? {
        Evaluated::Response(response) => Ok(response),
        Evaluated::BrokerCall(item, call) => item.call_broker(call).await,
    }
}

/// Returns the response to a request that the rate limit has admitted. Returns `None` if the broker must be called, or the owner
/// of the client's socket must be looked up.
pub(super) fn try_respond(
    edge: &Edge,
    dialect: Dialect,
    pod: &EdgePod,
    connection: &EdgeConnection,
    request: &Request<'_>,
) -> Option<Result<HttpResponse, RejectedRequest>> {
    if pod.restricts_users() && !connection.owner.is_known() {
        return None;
    }
    match evaluate_request(edge, dialect, Some(pod), connection, request, false) {
        Ok(Evaluated::Response(response)) => Some(Ok(response)),
        Ok(Evaluated::BrokerCall(..)) => None,
        Err(rejected) => Some(Err(rejected)),
    }
}

/// The response to a request, or the call of the broker that it needs.
enum Evaluated<'s> {
    Response(HttpResponse),
    BrokerCall(ItemRequest<'s>, BrokerCall<'s>),
}

/// Evaluates a request and returns the response, unless the broker must be called for it.
fn evaluate_request<'s>(
    edge: &'s Edge,
    dialect: Dialect,
    pod: Option<&'s EdgePod>,
    connection: &EdgeConnection,
    request: &Request<'_>,
    rate_limited: bool,
) -> Result<Evaluated<'s>, RejectedRequest> {
    let now = (edge.clock)();
    match decide(edge, dialect, pod, connection, request, rate_limited, now)? {
        Decision::IssueToken { token, ttl, hop_limit } => {
            connection.hop_limit.lower(hop_limit);
            edge.metrics.count_token(dialect);
            Ok(Evaluated::Response(dialect.protocol().token_response(token, ttl)))
        }
        Decision::ListMethods { allow, token_left } => {
            let headers = dialect.protocol().item_headers(None);
            let item = ItemResponse { body: Bytes::new(), kind: ContentKind::Text, headers, token_left };
            let mut response = dialect.protocol().item_response(item);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            Ok(Evaluated::Response(response))
        }
        Decision::ServeItem { lookup, token_left, audience } => {
            let item = pod.and_then(|pod| ItemRequest::new(edge, dialect, pod, token_left, now));
            let item = item.ok_or_else(|| Rejection::Unavailable("internal error: the pod has no tree".to_owned()))?;
            item.respond_or_call(lookup, audience).map_err(|rejection| rejection.with_token(token_left))
        }
    }
}

/// Evaluates a request. It is not async, because the checks are not `Send`.
fn decide<'p>(
    edge: &Edge,
    dialect: Dialect,
    pod: Option<&'p EdgePod>,
    connection: &EdgeConnection,
    request: &Request<'_>,
    rate_limited: bool,
    now: Timestamp,
) -> Result<Decision<'p>, RejectedRequest> {
    let arrival = &connection.arrival;
    let socket_user = || connection.owner.user();
    let checks = EdgeChecks {
        rate_limited,
        host_rule: arrival.host_rule,
        socket_user: &socket_user,
        nonce: &keys::random_nonce,
    };
    let state = pod.map_or(RequestPod::Unknown, |pod| pod.state(dialect));
    evaluate(dialect, request, state, &checks, &edge.keys.load(), now)
}

/// Waits until the rate limit admits a request of the pod. Returns true if the request is rejected instead.
async fn wait_for_rate_limit(pod: &EdgePod) -> bool {
    match pod.rate_limiter.reserve(&pod.limits(), Instant::now()) {
        Ok(Duration::ZERO) => false,
        Ok(wait) => {
            tokio::time::sleep(wait).await;
            false
        }
        Err(LimitExceeded { log }) => {
            if log {
                access::log_rate_limited(pod);
            }
            tokio::time::sleep(MAX_WAIT).await;
            true
        }
    }
}

/// A request for an item of a pod.
struct ItemRequest<'s> {
    edge: &'s Edge,
    dialect: Dialect,
    pod: &'s EdgePod,
    workload: &'s Workload,
    link: &'s Link,
    tree: &'s DialectTree,
    /// The remaining lifetime of the request's token in seconds, or `None` if the request has no token.
    token_left: Option<u32>,
    now: Timestamp,
}

/// The body of an item, its kind, and the headers of its response.
type Content = (Bytes, ContentKind, HeaderMap);

/// A call of the broker.
enum BrokerCall<'s> {
    UserData(&'s KeyRef),
    Credentials(&'s Role),
    /// A form of the signed document, with the audience that the request names.
    Document(DocumentForm, Option<String>),
}

impl<'s> ItemRequest<'s> {
    fn new(
        edge: &'s Edge,
        dialect: Dialect,
        pod: &'s EdgePod,
        token_left: Option<u32>,
        now: Timestamp,
    ) -> Option<Self> {
        let PodView::Served(workload, link) = pod.view() else { return None };
        Some(Self { edge, dialect, pod, workload, link, tree: pod.tree(dialect)?, token_left, now })
    }

    /// Returns the response from the tree or a cache, or the call of the broker that the item needs.
    fn respond_or_call(self, lookup: Lookup<'s>, audience: Option<String>) -> Result<Evaluated<'s>, Rejection> {
        let content = match lookup {
            Lookup::Listing(listing) => self.text(listing),
            Lookup::Leaf(LeafValue::Text(text)) => self.text(text.clone()),
            Lookup::Leaf(LeafValue::UserData(bytes)) => self.user_data(bytes.clone()),
            Lookup::Leaf(LeafValue::SecretUserData(key)) => {
                return Ok(Evaluated::BrokerCall(self, BrokerCall::UserData(key)));
            }
            Lookup::Leaf(LeafValue::Credentials) => {
                let role = self.workload.role(self.dialect).ok_or(Rejection::NotFound)?;
                match self.edge.broker.cached_credentials(self.workload, self.dialect, role, self.now) {
                    Some(result) => self.credentials(role, result),
                    None => return Ok(Evaluated::BrokerCall(self, BrokerCall::Credentials(role))),
                }
            }
            Lookup::Leaf(LeafValue::Document(form)) => match self.tree.signed.get() {
                Some(signed) if audience.is_none() => self.text(signed.form(*form)),
                Some(_) | None => return Ok(Evaluated::BrokerCall(self, BrokerCall::Document(*form, audience))),
            },
        };
        self.count_tokenless();
        Ok(Evaluated::Response(self.response(content)))
    }

    /// Calls the broker and returns the response.
    async fn call_broker(&self, call: BrokerCall<'_>) -> Result<HttpResponse, RejectedRequest> {
        self.count_tokenless();
        let broker = &self.edge.broker;
        let content = match call {
            BrokerCall::UserData(key) => {
                let bytes = broker.user_data(&self.workload.pod, key).await.map_err(Rejection::Unavailable);
                bytes.map(|bytes| self.user_data(bytes))
            }
            BrokerCall::Credentials(role) => {
                let result = broker.credentials(self.workload, self.dialect, role, self.now).await;
                Ok(self.credentials(role, result))
            }
            BrokerCall::Document(form, audience) => {
                self.document(form, audience).await.map(|document| self.text(document))
            }
        };
        let content = content.map_err(|rejection| rejection.with_token(self.token_left))?;
        Ok(self.response(content))
    }

    fn text(&self, text: Bytes) -> Content {
        (text, ContentKind::Text, self.tree.headers.clone())
    }

    fn user_data(&self, bytes: Bytes) -> Content {
        (bytes, ContentKind::UserData, self.tree.headers.clone())
    }

    /// Returns credentials of the pod's role, or the cloud's error document.
    fn credentials(&self, role: &Role, result: Result<IssuedCredentials, CredentialsFailure>) -> Content {
        let (edge, dialect, pod) = (self.edge, self.dialect, &self.workload.pod);
        match result {
            Ok(issued) => (issued.document(), ContentKind::Text, issued.headers().clone()),
            Err(failure) => {
                edge.metrics.count_credentials_failure(dialect);
                if let Some(suppressed) = access::admit_rejection(edge, Some(self.pod)) {
                    tracing::warn!(%pod, %dialect, role = %role.name, error = %failure, suppressed, "cannot get credentials of the role; serving the cloud's error document");
                }
                let protocol = dialect.protocol();
                (protocol.failure_json(&failure), ContentKind::Text, protocol.item_headers(Some(self.now)))
            }
        }
    }

    /// Returns a form of the signed document. Without an audience it is signed once for each version of the pod.
    async fn document(&self, form: DocumentForm, audience: Option<String>) -> Result<Bytes, Rejection> {
        let (broker, dialect) = (&self.edge.broker, self.dialect);
        if audience.is_some() {
            let signed = broker.document(self.workload, self.link, dialect, audience).await?;
            return Ok(signed.form(form));
        }
        let sign = || broker.document(self.workload, self.link, dialect, None);
        self.tree.signed.get_or_try_init(sign).await.map(|signed| signed.form(form))
    }

    fn response(&self, (body, kind, headers): Content) -> HttpResponse {
        let item = ItemResponse { body, kind, headers, token_left: self.token_left };
        self.dialect.protocol().item_response(item)
    }

    fn count_tokenless(&self) {
        if self.token_left.is_none() {
            self.edge.metrics.count_tokenless(self.dialect);
            self.pod.last_tokenless.store(self.now.as_second(), Ordering::Relaxed);
        }
    }
}
