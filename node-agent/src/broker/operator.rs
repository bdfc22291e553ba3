//! The broker of a node: everything comes from the operator. Credentials are kept, so that a pod's requests cost the
//! operator one call a minute, and are served to their end while it is away; so are signed documents, as long as they say
//! what the pod is.

mod slot;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use podmeta_agent_api::calls::{
    CREDENTIALS, CredentialsRequest, CredentialsResponse, DOCUMENT, DocumentRequest, ProfileGeneration, SECRETS,
    UserDataRequest, UserDataResponse,
};
use podmeta_metadata::credentials::{Credentials, CredentialsFailure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::role::Role;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::{Link, Workload};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use self::slot::{Serve, Slot};
use crate::serve::client::{Client, Error};

/// For how long user data is served without asking whether there is newer one.
const FRESH: Duration = Duration::from_secs(60);
/// How long a pod waits for the operator, and how often it is asked meanwhile if it cannot answer.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(400);

/// What is asked of the operator, and what of it is kept.
pub struct Operator {
    client: Arc<Client>,
    slots: Mutex<HashMap<(PodUid, Dialect), Arc<Slot>>>,
    documents: Mutex<HashMap<(PodUid, Dialect), SignedDocument>>,
    user_data: Mutex<HashMap<PodUid, Data>>,
    /// How each pod's last call for credentials went, for the next report.
    outcomes: Mutex<BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>>>,
    /// How often there was something else to save, or another outcome to report.
    changes: watch::Sender<u64>,
}

/// User data from a Secret, as it was when it was asked for.
#[derive(Clone)]
struct Data {
    key: KeyRef,
    bytes: Bytes,
    asked: Instant,
}

/// What is saved of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Credentials.
    pub credentials: Vec<Of<Given>>,
    /// Documents that are for no audience.
    pub documents: Vec<Of<SignedDocument>>,
}

/// Credentials, and the role that they are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The role. With another one they are not served any more.
    pub role: Role,
    /// Its credentials.
    pub credentials: Credentials,
}

/// Something of one pod in one dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Of<T> {
    /// The pod.
    pub pod: PodUid,
    /// The dialect.
    pub dialect: Dialect,
    /// What it is.
    pub value: T,
}

impl Operator {
    /// A broker that asks the operator, and has this from before.
    #[must_use]
    pub fn new(client: Arc<Client>, saved: Saved) -> Arc<Self> {
        let mut outcomes: BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>> = BTreeMap::new();
        for saved in &saved.credentials {
            outcomes.entry(saved.pod.clone()).or_default().insert(saved.dialect, None); // there were some
        }
        let slot = |saved: Of<Given>| {
            let Given { role, credentials } = saved.value;
            ((saved.pod, saved.dialect), Arc::new(Slot::with(role, credentials)))
        };
        let document = |saved: Of<SignedDocument>| ((saved.pod, saved.dialect), saved.value);
        Arc::new(Self {
            client,
            slots: Mutex::new(saved.credentials.into_iter().map(slot).collect()),
            documents: Mutex::new(saved.documents.into_iter().map(document).collect()),
            user_data: Mutex::default(),
            outcomes: Mutex::new(outcomes),
            changes: watch::Sender::new(0),
        })
    }

    /// Hears when there is something else to save, or another outcome to report.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What is kept now.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let slots = lock(&self.slots);
        let credentials = slots.iter().filter_map(|((pod, dialect), slot)| {
            let value = Given { role: slot.role().clone(), credentials: slot.credentials()? };
            Some(Of { pod: pod.clone(), dialect: *dialect, value })
        });
        let credentials = credentials.collect();
        drop(slots);
        let documents = lock(&self.documents);
        let document = |((pod, dialect), signed): (&(PodUid, Dialect), &SignedDocument)| Of {
            pod: pod.clone(),
            dialect: *dialect,
            value: signed.clone(),
        };
        Saved { credentials, documents: documents.iter().map(document).collect() }
    }

    /// How each pod's last call went: why there were no credentials, or nothing.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>> {
        lock(&self.outcomes).clone()
    }

    /// Forgets what is kept for pods that are gone, and for those whose roles may be others now.
    pub fn retain(&self, same: impl Fn(&PodUid) -> bool) {
        lock(&self.slots).retain(|(pod, _), _| same(pod));
        lock(&self.documents).retain(|(pod, _), _| same(pod));
        lock(&self.user_data).retain(|pod, _| same(pod));
        lock(&self.outcomes).retain(|pod, _| same(pod));
        self.changed();
    }

    /// User data that is in a Secret: kept in memory for a minute, and for longer while the operator is away.
    pub(super) async fn user_data(&self, pod: &PodUid, key: &KeyRef) -> Result<Bytes, String> {
        let kept = lock(&self.user_data).get(pod).filter(|kept| kept.key == *key).cloned();
        if let Some(kept) = &kept
            && kept.asked.elapsed() < FRESH
        {
            return Ok(kept.bytes.clone());
        }
        let asked = UserDataRequest { pod: pod.clone(), key: key.clone() };
        match (self.call::<_, UserDataResponse>(SECRETS, &asked).await, kept) {
            (Ok(given), _) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(given.data.expose());
                let bytes = Bytes::from(bytes.map_err(|_| "the operator's user data is no base64".to_owned())?);
                let data = Data { key: asked.key, bytes: bytes.clone(), asked: Instant::now() };
                lock(&self.user_data).insert(asked.pod, data);
                Ok(bytes)
            }
            (Err(Error::Unreachable(_) | Error::TooLong | Error::Status(_)), Some(kept)) => Ok(kept.bytes),
            (Err(error), _) => {
                lock(&self.user_data).remove(pod); // there is none any more, while the operator is away too
                Err(error.to_string())
            }
        }
    }

    /// The signed form of this text, which says what the pod is. While the operator is away it is one from before, if that
    /// says the same.
    pub(super) async fn document(
        &self,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        text: &str,
    ) -> Result<SignedDocument, String> {
        let key = (pod.clone(), dialect);
        let asked = DocumentRequest { pod: pod.clone(), dialect, audience: None, link: link.clone() };
        match self.call_until(DOCUMENT, &asked, |signed: &SignedDocument| signed.document == text).await {
            Ok(signed) if signed.document == text => {
                lock(&self.documents).insert(key, signed.clone());
                self.changed();
                Ok(signed)
            }
            Ok(_) => Err("the operator knows the pod otherwise than this agent".to_owned()),
            Err(error @ Error::Refused { .. }) => Err(error.to_string()),
            Err(error) => {
                let kept = lock(&self.documents).get(&key).filter(|kept| kept.document == text).cloned();
                kept.ok_or_else(|| error.to_string())
            }
        }
    }

    /// The pod's document, signed now, for an audience or for everybody.
    pub(super) async fn sign(
        &self,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        audience: Option<String>,
    ) -> Result<SignedDocument, String> {
        let asked = DocumentRequest { pod: pod.clone(), dialect, audience, link: link.clone() };
        self.call(DOCUMENT, &asked).await.map_err(|error| error.to_string())
    }

    pub(super) async fn credentials(
        self: &Arc<Self>,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let profile = workload.profile.as_ref();
        let profile =
            profile.map(|profile| ProfileGeneration { uid: profile.uid.clone(), generation: profile.generation });
        let asked = CredentialsRequest { pod: workload.pod.uid.clone(), dialect, profile };
        let slot = self.slot(&asked.pod, dialect, role);
        match slot.serve(now, Instant::now()) {
            Serve::Kept(answer) => answer,
            Serve::Nothing => self.refresh(&asked, &slot, now).await,
            Serve::Old(credentials, patience) => {
                let operator = Arc::clone(self);
                let refreshed = tokio::spawn(async move { operator.refresh(&asked, &slot, now).await });
                // It goes on when nobody waits for it any more.
                match tokio::time::timeout(patience, refreshed).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) | Err(_) => Ok(credentials),
                }
            }
        }
    }

    /// What is kept for a pod's role. What there is of another role goes.
    fn slot(&self, pod: &PodUid, dialect: Dialect, role: &Role) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry((pod.clone(), dialect)).or_insert_with(|| Arc::new(Slot::of(role.clone())));
        if slot.role() != role {
            *slot = Arc::new(Slot::of(role.clone()));
        }
        Arc::clone(slot)
    }

    /// Asks the operator; whoever asks for the same meanwhile has the same answer.
    async fn refresh(
        &self,
        asked: &CredentialsRequest,
        slot: &Slot,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let began = Instant::now();
        let _turn = slot.turn().await;
        if let Some(answer) = slot.answered_since(began, now) {
            return answer;
        }
        let answer = match self.call(CREDENTIALS, asked).await {
            Ok(CredentialsResponse::Given(credentials)) => slot.given(credentials, Instant::now()),
            Ok(CredentialsResponse::Failed(failure)) => slot.failed(failure, Instant::now()),
            Err(error) => {
                let (pod, dialect) = (&asked.pod, asked.dialect);
                tracing::warn!(%pod, %dialect, %error, "the operator could not be asked for credentials; those at hand are served to their end");
                let message = "podmeta's operator cannot be asked for credentials now".to_owned();
                slot.away(CredentialsFailure { code: "Failed".into(), message, at: now }, now, Instant::now())
            }
        };
        let why = answer.as_ref().err().map(|failure| failure.message.clone());
        lock(&self.outcomes).entry(asked.pod.clone()).or_default().insert(asked.dialect, why);
        self.changed();
        answer
    }

    async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(&self, path: &str, asked: &A) -> Result<B, Error> {
        self.call_until(path, asked, |_| true).await
    }

    /// Asks as long as a pod may wait: the replica that was asked may just have ended, not have heard of the pod yet, or
    /// know it as it was or will be in a moment.
    async fn call_until<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        asked: &A,
        is_current: impl Fn(&B) -> bool + Send,
    ) -> Result<B, Error> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = tokio::time::timeout_at(end, self.client.call(path, asked)).await;
            let answer = answer.unwrap_or(Err(Error::TooLong));
            let passes = match &answer {
                Ok(answer) => !is_current(answer),
                Err(Error::Unreachable(_) | Error::Status(_)) => true,
                Err(Error::Refused { status, .. }) => *status == StatusCode::FORBIDDEN,
                Err(Error::File { .. } | Error::TooLong | Error::Gone | Error::Answer(_)) => false,
            };
            if !passes || Instant::now() + RETRY >= end {
                return answer;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator(..)")
    }
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::role::Provider;
    use podmeta_metadata::secret::SecretString;

    use super::*;
    use crate::serve::client::Place;

    fn away(saved: Saved) -> Arc<Operator> {
        let nowhere = Place { url: "https://operator".parse().unwrap(), ca: "/none".into(), token: "/none".into() };
        Operator::new(Client::new(nowhere), saved)
    }

    fn role(secret: &str) -> Role {
        let provider = Provider::Secret { name: secret.to_owned() };
        Role { name: "r".to_owned().try_into().unwrap(), provider }
    }

    #[test]
    fn credentials_of_one_role_are_none_of_another() {
        let pod: PodUid = "u1".try_into().unwrap();
        let credentials = Credentials {
            access_key_id: "AKIA".into(),
            secret_access_key: SecretString::new("s".into()),
            session_token: SecretString::new(String::new()),
            last_updated: Timestamp::UNIX_EPOCH,
            expiration: Timestamp::MAX,
        };
        let value = Given { role: role("one"), credentials: credentials.clone() };
        let of = Of { pod: pod.clone(), dialect: Dialect::Ec2, value };
        let operator = away(Saved { credentials: vec![of], ..Saved::default() });
        assert_eq!(operator.slot(&pod, Dialect::Ec2, &role("one")).credentials(), Some(credentials));
        assert_eq!(operator.slot(&pod, Dialect::Ec2, &role("two")).credentials(), None);
        assert_eq!(operator.slot(&pod, Dialect::Ec2, &role("one")).credentials(), None, "nor later");
        assert_eq!(operator.saved(), Saved::default());
    }

    #[tokio::test(start_paused = true)]
    async fn user_data_from_one_key_is_none_from_another() {
        let pod: PodUid = "u1".try_into().unwrap();
        let key = |key: &str| KeyRef { name: "boot".into(), key: key.into() };
        let operator = away(Saved::default());
        let asked = Instant::now();
        lock(&operator.user_data).insert(pod.clone(), Data { key: key("a"), bytes: "a".into(), asked });
        assert_eq!(operator.user_data(&pod, &key("a")).await, Ok("a".into()));
        assert!(operator.user_data(&pod, &key("b")).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_operator_is_away_a_document_from_before_is_served_if_it_says_what_the_pod_is() {
        let pod: PodUid = "u1".try_into().unwrap();
        let signed = SignedDocument { document: "one".into(), signature: "s".into(), pkcs7: "p".into() };
        let document = Of { pod: pod.clone(), dialect: Dialect::Ec2, value: signed.clone() };
        let operator = away(Saved { documents: vec![document], ..Saved::default() });
        let link = Link::from_addresses(&pod, &[]);
        let asked = async |dialect, text| operator.document(&pod, &link, dialect, text).await;
        assert_eq!(asked(Dialect::Ec2, "one").await, Ok(signed));
        assert!(asked(Dialect::Ec2, "other").await.is_err());
        assert!(asked(Dialect::Ecs, "one").await.is_err());
        assert!(operator.sign(&pod, &link, Dialect::Ec2, None).await.is_err());
    }
}
