//! An operator with scripted responses. It records each call with its time. A call without a response left never
//! returns.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use podmeta_agent_api::calls::Report;
use podmeta_agent_api::{ResourceVersion, WatchEvent, WorkloadList};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::operator_client::OperatorError;
use crate::serve::sync::{OperatorApi, WatchBody};

/// A scripted response.
pub(super) enum MockResponse {
    List(WorkloadList),
    /// Frames of a watch that the operator ends after the last one.
    Watch(Vec<Bytes>),
    /// Frames of a watch that stays open.
    OpenWatch(Vec<Bytes>),
    /// Frames of a watch whose connection breaks.
    BrokenWatch(Vec<Bytes>),
    ReportAccepted,
    Error(OperatorError),
}

/// A call and the time since the mock was created.
pub(super) type TimedCall = (String, Duration);

pub(super) struct MockOperator {
    responses: Mutex<VecDeque<MockResponse>>,
    started: Instant,
    calls: mpsc::UnboundedSender<TimedCall>,
}

impl MockOperator {
    pub(super) fn new(
        responses: impl IntoIterator<Item = MockResponse>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<TimedCall>) {
        let (calls_tx, calls_rx) = mpsc::unbounded_channel();
        let responses = Mutex::new(responses.into_iter().collect());
        (Arc::new(Self { responses, started: Instant::now(), calls: calls_tx }), calls_rx)
    }

    async fn respond(&self, call: String) -> Result<MockResponse, OperatorError> {
        drop(self.calls.send((call, self.started.elapsed())));
        let response = self.responses.lock().unwrap().pop_front();
        match response {
            Some(MockResponse::Error(error)) => Err(error),
            Some(response) => Ok(response),
            None => std::future::pending().await,
        }
    }
}

impl OperatorApi for MockOperator {
    async fn list(&self) -> Result<WorkloadList, OperatorError> {
        match self.respond("list".to_owned()).await? {
            MockResponse::List(list) => Ok(list),
            _ => panic!("the next response is not a list"),
        }
    }

    async fn watch(&self, from: &ResourceVersion) -> Result<WatchBody, OperatorError> {
        let data = |frames: Vec<Bytes>| stream::iter(frames).map(|bytes| Ok(Frame::data(bytes)));
        let broken = || stream::iter([Err(OperatorError::Unreachable("connection reset".to_owned()))]);
        Ok(match self.respond(format!("watch {from}")).await? {
            MockResponse::Watch(frames) => StreamBody::new(data(frames)).boxed_unsync(),
            MockResponse::OpenWatch(frames) => StreamBody::new(data(frames).chain(stream::pending())).boxed_unsync(),
            MockResponse::BrokenWatch(frames) => StreamBody::new(data(frames).chain(broken())).boxed_unsync(),
            _ => panic!("the next response is not a watch"),
        })
    }

    async fn report(&self, replica: Option<&str>, _: &Report) -> Result<(), OperatorError> {
        match self.respond(format!("report {}", replica.unwrap_or("service"))).await? {
            MockResponse::ReportAccepted => Ok(()),
            _ => panic!("the next response is not for a report"),
        }
    }
}

/// Encodes events as one frame of a watch.
pub(super) fn frame(events: &[WatchEvent]) -> Bytes {
    events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect::<String>().into()
}

pub(super) fn unavailable() -> MockResponse {
    MockResponse::Error(OperatorError::Status(StatusCode::SERVICE_UNAVAILABLE))
}

pub(super) fn not_leader(leader: &str) -> MockResponse {
    let (status, message) = (StatusCode::MISDIRECTED_REQUEST, "not the leader".to_owned());
    MockResponse::Error(OperatorError::Rejected { status, message, leader: Some(leader.to_owned()) })
}
