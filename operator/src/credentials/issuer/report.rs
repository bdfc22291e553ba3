//! Reports the result of each call: the audit log, a metric, and an event on the profile after a failure.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder};
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::time::rfc3339;
use podmeta_service::log::ACCESS_TARGET;
use tokio::time::Instant;

use crate::cluster::events;
use crate::credentials::failure::ProviderError;
use crate::credentials::providers::Session;
use crate::credentials::request::RoleRequest;
use crate::credentials::session::session_name;
use crate::metrics::Metrics;
use crate::text::format_object;

/// The minimum interval between two events with the same reason on one profile.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// Reports results.
pub(super) struct ResultReporter {
    metrics: Metrics,
    recorder: Recorder,
    throttle: Mutex<FailureEventThrottle>,
}

impl ResultReporter {
    pub(super) fn new(metrics: Metrics, recorder: Recorder) -> Self {
        Self { metrics, recorder, throttle: Mutex::default() }
    }

    /// Reports a result. Must be called in a tokio runtime.
    pub(super) fn report(&self, request: &RoleRequest, result: &Result<Session, ProviderError>) {
        let cause = result.as_ref().err().map(|error| error.cause);
        self.metrics.count_credentials_call(request.role.kind(), cause);
        match result {
            Ok(session) => log_issued(request, session),
            Err(error) => {
                log_failure(request, error);
                self.publish_event(request, error);
            }
        }
    }

    fn publish_event(&self, request: &RoleRequest, error: &ProviderError) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if !throttle.admit(&request.profile.uid, error.cause, Instant::now()) {
            return;
        }
        drop(throttle);
        let note = format!("pod {}, role {}: {}", request.pod.name, request.role.arn(), error.detail);
        let event = Event {
            type_: EventType::Warning,
            reason: error.cause.to_string(),
            note: Some(note),
            action: "IssueCredentials".to_owned(),
            secondary: None,
        };
        let RoleRequest { pod, profile, .. } = request;
        let profile = events::profile_reference(&pod.namespace, &profile.name, &profile.uid);
        let recorder = self.recorder.clone();
        tokio::spawn(async move { events::publish(&recorder, event, &profile).await });
    }
}

/// Writes the audit line of a session.
fn log_issued(request: &RoleRequest, session: &Session) {
    let service_account =
        request.service_account.as_ref().map(|name| format_object(Some(&request.pod.namespace), name));
    tracing::info!(
        target: ACCESS_TARGET,
        pod = %request.pod,
        pod_uid = %request.pod.uid,
        node = request.node,
        service_account = service_account.map(tracing::field::display),
        provider = %request.role.kind(),
        role_arn = %request.role.arn(),
        session_name = session_name(&request.pod),
        access_key_id = session.credentials.access_key_id,
        expiration = rfc3339(session.credentials.expiration),
        request_id = session.request_id,
        "issued credentials"
    );
}

fn log_failure(request: &RoleRequest, error: &ProviderError) {
    tracing::warn!(
        pod = %request.pod,
        pod_uid = %request.pod.uid,
        node = request.node,
        provider = %request.role.kind(),
        role_arn = %request.role.arn(),
        session_name = session_name(&request.pod),
        cause = %error.cause,
        request_id = error.request_id,
        clock_skew = error.clock_skew.map(tracing::field::display),
        error = error.detail,
        "cannot issue credentials; serving the last ones until they expire, retrying with backoff"
    );
}

/// The time of the last event of each profile and cause.
#[derive(Debug, Default)]
struct FailureEventThrottle(HashMap<(String, FailureCause), Instant>);

impl FailureEventThrottle {
    fn admit(&mut self, profile: &str, cause: FailureCause, now: Instant) -> bool {
        self.0.retain(|_, published| now.duration_since(*published) < EVENT_INTERVAL);
        let key = (profile.to_owned(), cause);
        let is_admitted = !self.0.contains_key(&key);
        self.0.entry(key).or_insert(now);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::credentials::request::tests::web_identity;
    use crate::log_capture::LogCapture;

    #[test]
    fn log_has_the_difference_of_the_clocks() {
        let log = LogCapture::start("warn");
        let now: Timestamp = "2026-01-05T08:16:30Z".parse().unwrap();
        for date in ["Mon, 05 Jan 2026 08:00:00 GMT", "Mon, 05 Jan 2026 08:16:00 GMT"] {
            let error = ProviderError::new(FailureCause::AccessDenied, "no").with_date(Some(date), now);
            log_failure(&web_identity("shop", "u1"), &error);
        }
        let text = log.text();
        assert_eq!(text.matches("clock_skew=16 minutes ahead of the cloud").count(), 1, "{text}");
        assert_eq!(text.matches("clock_skew").count(), 1, "{text}");
    }

    #[test]
    fn event_of_one_profile_and_cause_is_published_once_a_minute() {
        let (mut throttle, start) = (FailureEventThrottle::default(), Instant::now());
        let mut admit = |profile, cause, second| throttle.admit(profile, cause, start + Duration::from_secs(second));
        let admitted = (0..150).filter(|second| admit("p1", FailureCause::AccessDenied, *second));
        assert_eq!(admitted.collect::<Vec<_>>(), [0, 60, 120]);
        assert!(admit("p1", FailureCause::Throttled, 150) && admit("p2", FailureCause::AccessDenied, 150));
    }
}
