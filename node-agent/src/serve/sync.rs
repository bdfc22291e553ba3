//! Keeps the node's pods as the operator says: lists, then watches, and begins again with patience when either ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use podmeta_agent_api::calls::{REPORTS, Report};
use podmeta_agent_api::{WORKLOADS, WatchEvent};
use tokio::time::Instant;

use crate::broker::Operator;
use crate::serve::client::{Client, Error};
use crate::serve::node::{Node, StateFile};

/// How long a stream may say nothing: the operator says at least every 20 s that it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest line of a stream, in bytes.
const MAX_LINE: usize = 1024 * 1024;
/// How long it takes at first, and at most, until the operator is asked again.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(15);
/// A stream that went on for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// How often the leader is told, whether anything changed or not: a new leader knows nothing, and waits 30 s.
const REPORT: Duration = Duration::from_secs(25);
/// How long the operator may take to take a report.
const ANSWER: Duration = Duration::from_secs(10);
/// How long after a report that was not taken the next one is said.
const AGAIN: Duration = Duration::from_secs(2);
/// How long changes are collected before they are told or saved.
const COLLECT: Duration = Duration::from_millis(100);

/// Follows the operator, for ever. `known` is called each time that everything it says has been taken in.
pub async fn follow(client: Arc<Client>, node: Arc<Node>, known: impl Fn()) -> Infallible {
    let mut wait = FIRST;
    loop {
        let began = Instant::now();
        match attempt(&client, &node, &known).await {
            Ok(()) => tracing::debug!("the operator ended the stream, as it does now and then"),
            Err(Error::Gone) => {
                tracing::info!("the operator is another one, or too much has changed: everything is listed again");
                node.list_again();
                // The list itself is no reason to wait, unless it does not come either.
                if attempt_list(&client, &node, &known).await.is_ok() {
                    continue;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the operator is away; known pods are served what they were, new ones are told to come again");
            }
        }
        wait = if began.elapsed() > GOOD { FIRST } else { (wait * 2).min(MOST) };
        tokio::time::sleep(jittered(wait)).await;
    }
}

async fn attempt(client: &Client, node: &Node, known: &impl Fn()) -> Result<(), Error> {
    if node.version().is_none() {
        attempt_list(client, node, known).await?;
    }
    let Some(version) = node.version() else { return Ok(()) };
    let path = format!("{WORKLOADS}?watch=1&resourceVersion={version}");
    let answer = tokio::time::timeout(SILENCE, client.get(&path)).await;
    let mut body = answer.unwrap_or(Err(Error::TooLong))?.into_body();
    known();
    let mut rest = Vec::new();
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| Error::TooLong)?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| Error::Unreachable(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
            if rest.len() > MAX_LINE {
                return Err(Error::Answer("a line of the stream is too long".to_owned()));
            }
            continue;
        };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        let events =
            serde_json::Deserializer::from_slice(&lines).into_iter::<WatchEvent>().collect::<Result<Vec<_>, _>>();
        match events {
            Ok(events) => node.take(events),
            Err(error) => {
                // What cannot be read might be a deletion: nothing after it may be taken in.
                node.list_again();
                return Err(Error::Answer(error.to_string()));
            }
        }
    }
}

async fn attempt_list(client: &Client, node: &Node, known: &impl Fn()) -> Result<(), Error> {
    let list = tokio::time::timeout(SILENCE, client.read(WORKLOADS)).await.unwrap_or(Err(Error::TooLong))?;
    node.list(list);
    known();
    Ok(())
}

/// Between half of a time and all of it, so that the agents of many nodes do not come at once.
fn jittered(most: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness all wait for the whole of it.
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return most;
    }
    most / 2 + most.mul_f64(f64::from(byte[0]) / 512.0)
}

/// Tells the leader what is served, when that changes and now and then, for ever.
pub async fn report(client: Arc<Client>, node: Arc<Node>, broker: Arc<Operator>) -> Infallible {
    let (mut pods, mut credentials) = (node.changes(), broker.changes());
    let mut leader: Option<String> = None;
    loop {
        let report = node.report(jiff::Timestamp::now().as_second());
        let said = tokio::time::timeout(ANSWER, say(&client, &mut leader, &report)).await;
        let pause = match said.unwrap_or(Err(Error::TooLong)) {
            Ok(()) => REPORT,
            Err(error) => {
                tracing::info!(%error, "the leader could not be told what is served; it is told again");
                leader = None;
                AGAIN
            }
        };
        tokio::select! {
            _ = pods.changed() => {}
            _ = credentials.changed() => {}
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        tokio::time::sleep(COLLECT).await;
    }
}

/// Says it to the replica that led last; if that is gone to any, and if another one leads now, to that.
async fn say(client: &Client, leader: &mut Option<String>, report: &Report) -> Result<(), Error> {
    let mut told = client.tell(leader.as_deref(), REPORTS, report).await;
    if leader.is_some() && matches!(told, Err(Error::Unreachable(_) | Error::Status(_))) {
        *leader = None;
        told = client.tell(None, REPORTS, report).await;
    }
    match told {
        Err(Error::Refused { leader: Some(other), .. }) => {
            *leader = Some(other);
            client.tell(leader.as_deref(), REPORTS, report).await
        }
        told => told,
    }
}

/// Saves what the operator said, when that changes, for ever.
pub async fn save(file: StateFile, node: Arc<Node>, broker: Arc<Operator>) -> Infallible {
    let (mut pods, mut credentials) = (node.changes(), broker.changes());
    loop {
        let state = node.state();
        if let Err(error) = file.write(&state) {
            tracing::warn!(%error, "the state could not be saved; after a restart the operator is asked for it");
        }
        tokio::select! {
            _ = pods.changed() => {}
            _ = credentials.changed() => {}
        }
        tokio::time::sleep(COLLECT).await;
    }
}
