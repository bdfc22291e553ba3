//! Signed identity documents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use podmeta_agent_api::calls::{DOCUMENT, DocumentRequest};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::Link;
use podmeta_service::shared_calls::SharedCalls;
use tokio::time::Instant;

use super::call::{PodCall, PodCallError};
use super::saved::PodRecord;
use super::{CALL_PANICKED, FAILURE_AGE, OperatorBroker, lock};
use crate::operator_client::OperatorError;

/// The cached documents and failures of each pod, and the calls in flight.
#[derive(Debug, Default)]
pub(super) struct DocumentCache {
    /// Documents without an audience.
    signed: Mutex<HashMap<(PodUid, Dialect), SignedDocument>>,
    failures: Mutex<HashMap<(PodUid, Dialect, DocumentKind), DocumentFailure>>,
    calls: SharedCalls<DocumentKey, DocumentResult>,
}

/// Pod, dialect and text of a document. The text contains everything that the operator signs, the audience included.
type DocumentKey = (PodUid, Dialect, String);

/// A signed document, or the error message.
type DocumentResult = Result<SignedDocument, String>;

/// Kind of a document. A failure of one kind does not block the other one, which may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum DocumentKind {
    /// It has no audience.
    Plain,
    /// It has an audience. A failure applies to every audience.
    Audience,
}

/// The last failure of a pod in one dialect and kind.
#[derive(Clone, Debug)]
struct DocumentFailure {
    message: String,
    failed: Instant,
}

impl DocumentKind {
    fn new(audience: Option<&String>) -> Self {
        if audience.is_some() { Self::Audience } else { Self::Plain }
    }
}

impl DocumentCache {
    /// Creates a cache with saved documents.
    pub(super) fn restored(saved: Vec<PodRecord<SignedDocument>>) -> Self {
        let signed = saved.into_iter().map(|saved| ((saved.pod, saved.dialect), saved.value));
        Self { signed: Mutex::new(signed.collect()), ..Self::default() }
    }

    /// Returns the documents to save.
    pub(super) fn saved(&self) -> Vec<PodRecord<SignedDocument>> {
        let record = |((pod, dialect), signed): (&(PodUid, Dialect), &SignedDocument)| PodRecord {
            pod: pod.clone(),
            dialect: *dialect,
            value: signed.clone(),
        };
        lock(&self.signed).iter().map(record).collect()
    }

    /// Removes the data of all pods for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&PodUid) -> bool) {
        lock(&self.signed).retain(|(pod, _), _| keep(pod));
        lock(&self.failures).retain(|(pod, ..), _| keep(pod));
    }

    fn recent_failure(&self, pod: &PodUid, dialect: Dialect, kind: DocumentKind) -> Option<String> {
        let failures = lock(&self.failures);
        let failure = failures.get(&(pod.clone(), dialect, kind))?;
        (failure.failed.elapsed() < FAILURE_AGE).then(|| failure.message.clone())
    }
}

impl OperatorBroker {
    /// Returns the signed form of a document with this text. A failure is cached for [`FAILURE_AGE`].
    ///
    /// A document without an audience is cached. While the operator is unavailable, the cached one is returned if its
    /// text is the same. A document with an audience is signed for each request.
    pub(in crate::broker) async fn document(
        self: &Arc<Self>,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        audience: Option<String>,
        text: String,
    ) -> DocumentResult {
        let kind = DocumentKind::new(audience.as_ref());
        if let Some(message) = self.documents.recent_failure(pod, dialect, kind) {
            return Err(message);
        }
        let request = DocumentRequest { pod: pod.clone(), dialect, audience, link: link.clone() };
        let (broker, key) = (Arc::clone(self), (pod.clone(), dialect, text.clone()));
        let call = async move { broker.sign(&request, &text).await };
        let result = self.documents.calls.join(key, call).await;
        result.unwrap_or_else(|| Err(CALL_PANICKED.to_owned()))
    }

    /// Has the operator sign a document, and caches the result.
    async fn sign(&self, request: &DocumentRequest, text: &str) -> DocumentResult {
        let (pod, dialect) = (&request.pod, request.dialect);
        let call = PodCall { client: &self.client, lane: &self.lanes.documents, pod, path: DOCUMENT, request };
        let key = (pod.clone(), dialect);
        let kind = DocumentKind::new(request.audience.as_ref());
        let has_audience = kind == DocumentKind::Audience;
        let is_current = |signed: &SignedDocument| has_audience || signed.document == text;
        let message = match call.send_until(is_current).await {
            Ok(signed) if has_audience => return Ok(signed),
            Ok(signed) if signed.document == text => {
                lock(&self.documents.signed).insert(key, signed.clone());
                self.notify();
                return Ok(signed);
            }
            Ok(_) => "the operator has another version of the pod than this agent; retry later".to_owned(),
            Err(error @ PodCallError::QueueFull) => return Err(error.to_string()),
            Err(error @ PodCallError::Operator(OperatorError::Rejected { .. })) => error.to_string(),
            Err(PodCallError::Operator(error)) => {
                let signed = lock(&self.documents.signed);
                let cached = signed.get(&key).filter(|cached| !has_audience && cached.document == text);
                if let Some(cached) = cached {
                    return Ok(cached.clone());
                }
                error.to_string()
            }
        };
        let failure = DocumentFailure { message: message.clone(), failed: Instant::now() };
        lock(&self.documents.failures).insert((pod.clone(), dialect, kind), failure);
        Err(message)
    }
}
