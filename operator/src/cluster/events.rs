//! Publishes Kubernetes events.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder};

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes an event. A failure is logged and not retried.
pub async fn publish(recorder: &Recorder, event: &Event, object: &ObjectReference) {
    let (kind, namespace, name) = (object.kind.as_deref(), object.namespace.as_deref(), object.name.as_deref());
    match tokio::time::timeout(API_TIMEOUT, recorder.publish(event, object)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                error = %format_chain(&error),
                kind,
                namespace,
                name,
                reason = event.reason,
                "cannot publish an event; it is dropped"
            );
        }
        Err(_) => tracing::warn!(
            kind,
            namespace,
            name,
            reason = event.reason,
            "cannot publish an event: timeout; it is dropped"
        ),
    }
}

/// Formats an error with its sources.
#[must_use]
pub fn format_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors already include their source.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
