//! The broker of a node: everything comes from the operator. Credentials are kept, so that a pod's requests cost the
//! operator one call a minute, and are served to their end while it is away.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use jiff::Timestamp;
use podmeta_agent_api::calls::{
    self, CREDENTIALS, Credentials as Answer, DOCUMENT, DocumentRequest, Pod, PodInDialect, SECRETS, UserData,
};
use podmeta_metadata::credentials::{Credentials, Failure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::signature::Signed;
use podmeta_metadata::workload::Link;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turn, watch};
use tokio::time::Instant;

use crate::serve::client::{Client, Error};

/// How long credentials are served without asking whether there are newer ones.
const FRESH: Duration = Duration::from_secs(60);
/// How long after a call failed the next one is made: requests meanwhile have the same answer.
const AGAIN: Duration = Duration::from_secs(3);
/// How long a pod waits for the operator, and how often it is asked meanwhile if it cannot be reached.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(400);

/// What is asked of the operator, and what of it is kept.
pub struct Operator {
    client: Arc<Client>,
    kept: Mutex<HashMap<(PodUid, Dialect), Arc<Turn<Kept>>>>,
    /// How each pod's last call went, for the next report.
    outcomes: Mutex<BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>>>,
    /// How often there were other credentials to save, or another outcome to report.
    changes: watch::Sender<u64>,
}

/// Credentials of one pod in one dialect.
#[derive(Debug, Default)]
struct Kept {
    credentials: Option<Credentials>,
    /// What the pod is told while there are none.
    failure: Option<Failure>,
    asked: Option<Instant>,
}

/// Credentials as they are saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Whose.
    pub pod: PodUid,
    /// Of which dialect's role.
    pub dialect: Dialect,
    /// The credentials.
    pub credentials: Credentials,
}

impl Operator {
    /// A broker that asks the operator, and has these credentials from before.
    #[must_use]
    pub fn new(client: Arc<Client>, saved: Vec<Saved>) -> Arc<Self> {
        let keep = |saved: Saved| {
            let kept = Kept { credentials: Some(saved.credentials), ..Kept::default() };
            ((saved.pod, saved.dialect), Arc::new(Turn::new(kept)))
        };
        let kept = Mutex::new(saved.into_iter().map(keep).collect());
        Arc::new(Self { client, kept, outcomes: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// Hears when there are other credentials to save, or another outcome to report.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The credentials that are kept now.
    pub async fn saved(&self) -> Vec<Saved> {
        let all: Vec<_> = self.kept().iter().map(|(key, kept)| (key.clone(), Arc::clone(kept))).collect();
        let mut saved = Vec::new();
        for ((pod, dialect), kept) in all {
            let kept = kept.lock().await;
            saved.extend(kept.credentials.clone().map(|credentials| Saved { pod, dialect, credentials }));
        }
        saved
    }

    /// How each pod's last call went: why there were no credentials, or nothing.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>> {
        self.lock_outcomes().clone()
    }

    /// Forgets pods that are gone, and those whose roles may be others now.
    pub fn retain(&self, same: impl Fn(&PodUid) -> bool) {
        self.kept().retain(|(pod, _), _| same(pod));
        self.lock_outcomes().retain(|pod, _| same(pod));
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) async fn user_data(&self, pod: &PodUid) -> Result<Bytes, String> {
        let given: UserData = self.call(SECRETS, &Pod { pod: pod.clone() }).await.map_err(|error| error.to_string())?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(given.data.expose());
        bytes.map(Bytes::from).map_err(|_| "the operator's user data is no base64".to_owned())
    }

    pub(super) async fn document(
        &self,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        audience: Option<String>,
    ) -> Result<Signed, String> {
        let asked = DocumentRequest { pod: pod.clone(), dialect, audience, link: link.clone() };
        self.call(DOCUMENT, &asked).await.map_err(|error| error.to_string())
    }

    pub(super) async fn credentials(
        self: &Arc<Self>,
        pod: &PodUid,
        dialect: Dialect,
        now: Timestamp,
    ) -> Result<Credentials, Failure> {
        let kept = Arc::clone(self.kept().entry((pod.clone(), dialect)).or_default());
        // Whoever asks meanwhile waits here, and has the same answer.
        let mut kept = kept.lock_owned().await;
        let age = kept.asked.map(|asked| asked.elapsed());
        let valid = kept.credentials.clone().filter(|credentials| credentials.expiration > now);
        match (valid, age) {
            (Some(credentials), Some(age)) if age < FRESH => Ok(credentials),
            (Some(credentials), _) => {
                // There are some to serve: nobody waits for newer ones.
                kept.asked = Some(Instant::now());
                let (operator, pod) = (Arc::clone(self), pod.clone());
                tokio::spawn(async move {
                    drop(operator.ask(&pod, dialect, now, &mut kept).await);
                });
                Ok(credentials)
            }
            (None, Some(age)) if age < AGAIN => match kept.failure.clone() {
                Some(failure) => Err(failure),
                None => self.ask(pod, dialect, now, &mut kept).await,
            },
            (None, _) => self.ask(pod, dialect, now, &mut kept).await,
        }
    }

    async fn ask(
        &self,
        pod: &PodUid,
        dialect: Dialect,
        now: Timestamp,
        kept: &mut Kept,
    ) -> Result<Credentials, Failure> {
        kept.asked = Some(Instant::now());
        let answer = self.call::<_, Answer>(CREDENTIALS, &PodInDialect { pod: pod.clone(), dialect }).await;
        let before = kept.credentials.clone();
        let given = match answer {
            Ok(Answer::Given(credentials)) => Ok(credentials),
            // The operator's word: what there was before is not to be served any more.
            Ok(Answer::Failed(failure)) => Err((failure, None)),
            Err(error) => {
                tracing::warn!(%pod, %dialect, %error, "the operator could not be asked for credentials; those at hand are served to their end");
                let message = "podmeta's operator cannot be asked for credentials now".to_owned();
                let refused = matches!(error, Error::Refused { .. });
                Err((Failure { code: "Failed".into(), message, at: now }, before.clone().filter(|_| !refused)))
            }
        };
        let outcome = match given {
            Ok(credentials) => {
                kept.failure = None;
                kept.credentials = Some(credentials.clone());
                Ok(credentials)
            }
            Err((failure, left)) => {
                kept.failure = Some(failure.clone());
                kept.credentials = left;
                Err(failure)
            }
        };
        let why = outcome.as_ref().err().map(|failure| failure.message.clone());
        let reported = self.lock_outcomes().entry(pod.clone()).or_default().insert(dialect, why.clone());
        if reported != Some(why) || before != kept.credentials {
            self.changes.send_modify(|changes| *changes += 1);
        }
        outcome
    }

    /// Asks as long as a pod may wait: the replica that was asked may just have ended, and another be there.
    async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(&self, path: &str, asked: &A) -> Result<B, Error> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = tokio::time::timeout_at(end, self.client.call(path, asked)).await;
            match answer.unwrap_or(Err(Error::TooLong)) {
                Err(Error::Unreachable(_) | Error::Status(_)) if Instant::now() + RETRY < end => {
                    tokio::time::sleep(RETRY).await;
                }
                answer => return answer,
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(PodUid, Dialect), Arc<Turn<Kept>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_outcomes(&self) -> MutexGuard<'_, BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator(..)")
    }
}

/// What an answer of the operator to a call means to a pod.
impl From<calls::Refused> for Error {
    fn from(refused: calls::Refused) -> Self {
        Self::Refused { message: refused.message, leader: refused.leader }
    }
}
