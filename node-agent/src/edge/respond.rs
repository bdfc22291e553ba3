//! Responds to one request: applies the rate limit, evaluates the request, and gets data that is not in the tree.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use podmeta_metadata::compile::PodView;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::{Decision, EdgeChecks, RequestPod, evaluate};
use podmeta_metadata::rejection::{RejectedRequest, Rejection};
use podmeta_metadata::request::Request;
use podmeta_metadata::response::{ContentKind, HttpResponse, ItemResponse};
use podmeta_metadata::tree::{DocumentForm, LeafValue, Lookup};
use podmeta_metadata::workload::{Link, Workload};
use tokio::time::Instant;

use crate::edge::connection::EdgeConnection;
use crate::edge::limit::{LimitExceeded, MAX_WAIT};
use crate::edge::pod::{DialectTree, EdgePod};
use crate::edge::{Edge, access, owner};
use crate::keys;

/// Returns the response to a request of a dialect. `pod` is `None` if the pod is unknown.
pub(super) async fn respond(
    edge: &Edge,
    dialect: Dialect,
    pod: Option<&EdgePod>,
    connection: &EdgeConnection,
    request: &Request<'_>,
) -> Result<HttpResponse, RejectedRequest> {
    let rate_limited = match pod {
        Some(pod) => wait_for_rate_limit(pod).await,
        None => false,
    };
    let now = (edge.clock)();
    match decide(edge, dialect, pod, connection, request, rate_limited, now)? {
        Decision::IssueToken { token, ttl, hop_limit } => {
            connection.hop_limit.lower(hop_limit);
            edge.metrics.count_token(dialect);
            Ok(dialect.protocol().token_response(token, ttl))
        }
        Decision::ListMethods { allow, token_left } => {
            let headers = dialect.protocol().item_headers(None);
            let item = ItemResponse { body: Bytes::new(), kind: ContentKind::Text, headers, token_left };
            let mut response = dialect.protocol().item_response(item);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            Ok(response)
        }
        Decision::ServeItem { lookup, token_left, audience } => {
            let served = pod.and_then(|pod| ServedPod::new(edge, dialect, pod));
            let served =
                served.ok_or_else(|| Rejection::Unavailable("internal error: the pod has no tree".to_owned()))?;
            if token_left.is_none() {
                edge.metrics.count_tokenless(dialect);
                served.pod.last_tokenless.store(now.as_second(), Ordering::Relaxed);
            }
            let (body, kind, headers) = match lookup {
                Lookup::Listing(listing) => (listing, ContentKind::Text, served.headers()),
                Lookup::Leaf(value) => {
                    served.leaf(value, audience, now).await.map_err(|rejection| rejection.with_token(token_left))?
                }
            };
            Ok(dialect.protocol().item_response(ItemResponse { body, kind, headers, token_left }))
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
    let process_owner = || arrival.sockets.as_ref().and_then(owner::user_of);
    let checks = EdgeChecks {
        rate_limited,
        host_rule: arrival.host_rule,
        process_owner: &process_owner,
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

/// A pod that is served in a dialect.
struct ServedPod<'s> {
    edge: &'s Edge,
    dialect: Dialect,
    pod: &'s EdgePod,
    workload: &'s Workload,
    link: &'s Link,
    tree: &'s DialectTree,
}

/// The body of an item, its kind, and the headers of its response.
type Content = (Bytes, ContentKind, HeaderMap);

impl<'s> ServedPod<'s> {
    fn new(edge: &'s Edge, dialect: Dialect, pod: &'s EdgePod) -> Option<Self> {
        let PodView::Served(workload, link) = pod.view() else { return None };
        Some(Self { edge, dialect, pod, workload, link, tree: pod.tree(dialect)? })
    }

    /// Returns the headers of the tree's items.
    fn headers(&self) -> HeaderMap {
        self.tree.headers.clone()
    }

    /// Returns the content of a leaf. Calls the broker if the tree does not contain it.
    async fn leaf(&self, value: &LeafValue, audience: Option<String>, now: Timestamp) -> Result<Content, Rejection> {
        match value {
            LeafValue::Text(text) => Ok((text.clone(), ContentKind::Text, self.headers())),
            LeafValue::UserData(bytes) => Ok((bytes.clone(), ContentKind::UserData, self.headers())),
            LeafValue::SecretUserData(key) => {
                let bytes =
                    self.edge.broker.user_data(&self.workload.pod, key).await.map_err(Rejection::Unavailable)?;
                Ok((bytes, ContentKind::UserData, self.headers()))
            }
            LeafValue::Credentials => self.credentials(now).await,
            LeafValue::Document(item) => {
                let document = self.document(*item, audience).await?;
                Ok((document, ContentKind::Text, self.headers()))
            }
        }
    }

    /// Returns the credentials of the pod's role, or the cloud's error document.
    async fn credentials(&self, now: Timestamp) -> Result<Content, Rejection> {
        let (edge, workload, dialect) = (self.edge, self.workload, self.dialect);
        let role = workload.role(dialect).ok_or(Rejection::NotFound)?;
        let credentials = edge.broker.credentials(workload, dialect, role, now).await;
        match credentials {
            Ok(issued) => Ok((issued.document(), ContentKind::Text, issued.headers().clone())),
            Err(failure) => {
                edge.metrics.count_credentials_failure(dialect);
                if let Some(suppressed) = access::admit_rejection(edge, Some(self.pod)) {
                    tracing::warn!(pod = %workload.pod, %dialect, role = %role.name, %failure, suppressed, "cannot get credentials of the role; serving the cloud's error document");
                }
                let protocol = dialect.protocol();
                Ok((protocol.failure_json(&failure), ContentKind::Text, protocol.item_headers(Some(now))))
            }
        }
    }

    /// Returns a form of the signed document. Without an audience it is signed once for each version of the pod.
    async fn document(&self, item: DocumentForm, audience: Option<String>) -> Result<Bytes, Rejection> {
        let (broker, dialect) = (&self.edge.broker, self.dialect);
        if audience.is_some() {
            let signed = broker.document(self.workload, self.link, dialect, audience).await?;
            return Ok(signed.form(item));
        }
        let sign = || broker.document(self.workload, self.link, dialect, None);
        self.tree.signed.get_or_try_init(sign).await.map(|signed| signed.form(item))
    }
}
