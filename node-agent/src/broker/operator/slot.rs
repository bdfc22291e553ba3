//! The credentials of one pod in one dialect as they are kept: what is served at once, and when the operator is asked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, CredentialsFailure};
use podmeta_metadata::role::Role;
use tokio::sync::{Mutex as Turn, MutexGuard as TurnGuard};
use tokio::time::Instant;

/// How long credentials are served without asking whether there are newer ones.
const FRESH: Duration = Duration::from_secs(60);
/// Credentials that were not asked for in so long may be of a Secret that is another one by now, so that the pod waits a
/// moment for newer ones.
const STALE: Duration = Duration::from_secs(300);
const MOMENT: Duration = Duration::from_millis(300);
/// How long a failure is the answer before the operator is asked again.
const AGAIN: Duration = Duration::from_secs(3);

/// A pod's credentials in one dialect.
#[derive(Debug)]
pub(super) struct Slot {
    role: Role,
    kept: Mutex<Kept>,
    turn: Turn<()>,
}

#[derive(Debug, Default)]
struct Kept {
    credentials: Option<Credentials>,
    /// What the pod is told while there are none.
    failure: Option<CredentialsFailure>,
    /// When the operator was asked last, by anybody.
    asked: Option<Instant>,
    answered: Option<Instant>,
}

/// What to do with a request.
#[derive(Debug, PartialEq)]
pub(super) enum Serve {
    /// Answer it so.
    Kept(Result<Credentials, CredentialsFailure>),
    /// Ask the operator, and answer with these if it takes longer than that.
    Old(Credentials, Duration),
    /// Ask the operator.
    Nothing,
}

impl Slot {
    /// None yet.
    pub(super) fn of(role: Role) -> Self {
        Self { role, kept: Mutex::default(), turn: Turn::default() }
    }

    /// Credentials that were saved, so that nobody knows how old they are.
    pub(super) fn with(role: Role, credentials: Credentials) -> Self {
        let kept = Kept { credentials: Some(credentials), ..Kept::default() };
        Self { role, kept: Mutex::new(kept), turn: Turn::default() }
    }

    /// The role that they are of.
    pub(super) fn role(&self) -> &Role {
        &self.role
    }

    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.kept().credentials.clone()
    }

    /// Of many requests at once only the first one asks the operator.
    pub(super) fn serve(&self, now: Timestamp, instant: Instant) -> Serve {
        let mut kept = self.kept();
        let age = kept.asked.map(|asked| instant.saturating_duration_since(asked));
        match (kept.valid(now), age) {
            (Some(credentials), Some(age)) if age < FRESH => Serve::Kept(Ok(credentials)),
            (Some(credentials), age) => {
                kept.asked = Some(instant);
                let known = age.is_some_and(|age| age < STALE);
                Serve::Old(credentials, if known { Duration::ZERO } else { MOMENT })
            }
            (None, Some(age)) if age < AGAIN => {
                kept.failure.clone().map_or(Serve::Nothing, |failed| Serve::Kept(Err(failed)))
            }
            (None, _) => Serve::Nothing,
        }
    }

    /// Waits for its turn to ask the operator.
    pub(super) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The answer that came while a turn was waited for.
    pub(super) fn answered_since(
        &self,
        began: Instant,
        now: Timestamp,
    ) -> Option<Result<Credentials, CredentialsFailure>> {
        let kept = self.kept();
        kept.answered.filter(|answered| *answered >= began)?;
        kept.valid(now).map(Ok).or_else(|| kept.failure.clone().map(Err))
    }

    pub(super) fn given(&self, credentials: Credentials, instant: Instant) -> Result<Credentials, CredentialsFailure> {
        let (asked, answered) = (Some(instant), Some(instant));
        *self.kept() = Kept { credentials: Some(credentials.clone()), failure: None, asked, answered };
        Ok(credentials)
    }

    /// The operator's word that there are none: what there was is not served any more.
    pub(super) fn failed(
        &self,
        failure: CredentialsFailure,
        instant: Instant,
    ) -> Result<Credentials, CredentialsFailure> {
        let (asked, answered) = (Some(instant), Some(instant));
        *self.kept() = Kept { credentials: None, failure: Some(failure.clone()), asked, answered };
        Err(failure)
    }

    /// The operator gave no answer: what there is is served to its end.
    pub(super) fn away(
        &self,
        failure: CredentialsFailure,
        now: Timestamp,
        instant: Instant,
    ) -> Result<Credentials, CredentialsFailure> {
        let mut kept = self.kept();
        (kept.asked, kept.answered) = (Some(instant), Some(instant));
        match kept.valid(now) {
            Some(credentials) => Ok(credentials),
            None => {
                kept.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn valid(&self, now: Timestamp) -> Option<Credentials> {
        self.credentials.clone().filter(|credentials| credentials.expiration > now)
    }
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::role::Provider;
    use podmeta_metadata::secret::SecretString;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn credentials(id: &str, until: i64) -> Credentials {
        Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: SecretString::new("s".to_owned()),
            session_token: SecretString::new(String::new()),
            last_updated: at(0),
            expiration: at(until),
        }
    }

    fn role() -> Role {
        let provider = Provider::Secret { name: "keys".to_owned() };
        Role { name: "r".to_owned().try_into().unwrap(), provider }
    }

    fn failure(message: &str) -> CredentialsFailure {
        CredentialsFailure { code: "Failed".into(), message: message.to_owned(), at: at(0) }
    }

    #[test]
    fn the_first_request_asks_and_for_a_minute_no_other_does() {
        let (slot, start) = (Slot::of(role()), Instant::now());
        assert_eq!(slot.serve(at(0), start), Serve::Nothing);
        let one = slot.given(credentials("one", 1000), start).unwrap();
        assert_eq!(slot.serve(at(59), start + Duration::from_secs(59)), Serve::Kept(Ok(one.clone())));
        let minute = start + FRESH;
        assert_eq!(slot.serve(at(60), minute), Serve::Old(one.clone(), Duration::ZERO), "it asks, and nobody waits");
        assert_eq!(slot.serve(at(60), minute), Serve::Kept(Ok(one)), "another is served beside it");
    }

    #[test]
    fn a_pod_waits_a_moment_where_nobody_knows_how_old_its_credentials_are() {
        let slot = Slot::with(role(), credentials("saved", 1000));
        assert!(matches!(slot.serve(at(0), Instant::now()), Serve::Old(_, MOMENT)));
        let (slot, start) = (Slot::of(role()), Instant::now());
        drop(slot.given(credentials("one", 1000), start));
        assert!(matches!(slot.serve(at(1), start + STALE), Serve::Old(_, MOMENT)));
    }

    #[test]
    fn what_the_operator_takes_back_is_gone_and_what_it_does_not_say_is_served_to_its_end() {
        let (slot, start) = (Slot::of(role()), Instant::now());
        let one = slot.given(credentials("one", 100), start).unwrap();
        assert_eq!(slot.away(failure("away"), at(99), start), Ok(one));
        assert_eq!(slot.away(failure("away"), at(100), start), Err(failure("away")), "their end");
        drop(slot.given(credentials("two", 1000), start));
        assert_eq!(slot.failed(failure("no Secret"), start), Err(failure("no Secret")));
        assert_eq!(slot.credentials(), None);
        assert_eq!(slot.serve(at(0), start), Serve::Kept(Err(failure("no Secret"))));
        assert_eq!(slot.serve(at(0), start + AGAIN), Serve::Nothing);
    }

    #[test]
    fn who_waited_for_a_turn_has_the_answer_that_came_meanwhile_and_no_older_one() {
        let (slot, start) = (Slot::of(role()), Instant::now());
        let one = slot.given(credentials("one", 1000), start).unwrap();
        assert_eq!(slot.answered_since(start, at(0)), Some(Ok(one)));
        assert_eq!(slot.answered_since(start + Duration::from_secs(1), at(0)), None);
    }
}
