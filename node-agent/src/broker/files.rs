//! The broker of dev mode. Everything comes from files. Providers that call a cloud return an error here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use podmeta_metadata::credentials::{
    Credentials, CredentialsFailure, FailureCause, SecretData, SecretId, from_role_secret,
};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::role::{Provider, ProviderKind, Role};
use podmeta_metadata::signature::{SignedDocument, Signer};
use podmeta_metadata::user_data;
use tokio::sync::Semaphore;

use crate::broker::IssuedCredentials;

/// Secrets by namespace and name.
pub type Secrets = BTreeMap<SecretId, SecretData>;

/// Time for which credentials are served before they are issued again, as on a node.
const ISSUE_AGE: SignedDuration = SignedDuration::from_mins(1);

/// The broker of dev mode.
pub struct FileBroker {
    secrets: ArcSwap<BTreeMap<SecretId, FileSecret>>,
    signer: Arc<Signer>,
    signing: Semaphore,
}

/// A Secret of the files, and the credentials that were issued from it.
struct FileSecret {
    data: SecretData,
    issued: Mutex<BTreeMap<Dialect, IssuedCredentials>>,
}

impl FileSecret {
    fn new(data: SecretData) -> Self {
        Self { data, issued: Mutex::default() }
    }

    /// Returns credentials in the form of a dialect. `id` is the Secret's own.
    fn credentials(
        &self,
        id: &SecretId,
        dialect: Dialect,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issued) = issued.get(&dialect).filter(|issued| is_fresh(issued.credentials(), now)) {
            return Ok(issued.clone());
        }
        let new = IssuedCredentials::new(from_role_secret(&id.0, &id.1, Some(&self.data), now)?, dialect);
        issued.insert(dialect, new.clone());
        Ok(new)
    }
}

/// Returns true if credentials need not be issued again.
fn is_fresh(credentials: &Credentials, now: Timestamp) -> bool {
    let age = now.duration_since(credentials.last_updated);
    (SignedDuration::ZERO..ISSUE_AGE).contains(&age) && now < credentials.expiration
}

impl FileBroker {
    /// Creates a broker without Secrets.
    #[must_use]
    pub fn new(signer: Signer) -> Arc<Self> {
        Arc::new(Self { secrets: ArcSwap::default(), signer: Arc::new(signer), signing: Semaphore::new(1) })
    }

    /// Replaces all Secrets.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.secrets.store(Arc::new(secrets.into_iter().map(|(id, data)| (id, FileSecret::new(data))).collect()));
    }

    pub(super) fn user_data(&self, namespace: &str, key: &KeyRef) -> Result<Bytes, String> {
        let secrets = self.secrets.load();
        let data = secrets.get(&(namespace.to_owned(), key.name.clone())).map(|secret| &secret.data);
        user_data::from_secret(namespace, key, data).map(Bytes::copy_from_slice)
    }

    pub(super) fn credentials(
        &self,
        namespace: &str,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let Provider::Secret { name } = &role.provider else {
            return Err(not_called(role.provider.kind(), now));
        };
        let id = (namespace.to_owned(), name.clone());
        match self.secrets.load().get(&id) {
            Some(secret) => secret.credentials(&id, dialect, now),
            None => from_role_secret(namespace, name, None, now).map(|new| IssuedCredentials::new(new, dialect)),
        }
    }

    /// Signs a document in a blocking task, because it takes milliseconds. One document is signed at a time, so that
    /// many signatures do not occupy all processors.
    pub(super) async fn sign(&self, document: String) -> Result<SignedDocument, String> {
        let failed = |error: &dyn Display| format!("cannot sign the identity document: {error}");
        let _permit = self.signing.acquire().await.map_err(|closed| failed(&closed))?;
        let signer = Arc::clone(&self.signer);
        let signed = tokio::task::spawn_blocking(move || signer.sign(&document)).await;
        signed.map_err(|panicked| failed(&panicked))?.map_err(|error| failed(&error))
    }
}

/// Returns the failure of a role whose provider calls a cloud.
fn not_called(provider: ProviderKind, now: Timestamp) -> CredentialsFailure {
    let message = format!("{provider} needs a call to a cloud, which the dev server does not make; use secret");
    CredentialsFailure::not_called(provider, message, FailureCause::ProviderFailed, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(more: &[(&str, &str)]) -> FileSecret {
        let pairs = [("accessKeyId", "AKIA"), ("secretAccessKey", "s")].iter().chain(more);
        let data = pairs.map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        FileSecret::new(data.collect())
    }

    fn keys() -> SecretId {
        ("shop".to_owned(), "keys".to_owned())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn credentials_are_issued_once_a_minute_for_each_dialect() {
        let secret = secret(&[]);
        let issue = |dialect, second| secret.credentials(&keys(), dialect, at(second)).unwrap();
        let address = |issued: &IssuedCredentials| issued.document().as_ptr().addr();
        let first = issue(Dialect::Ec2, 1000);
        assert_eq!(address(&issue(Dialect::Ec2, 1059)), address(&first), "the document is rendered once");
        assert!(issue(Dialect::Ecs, 1000).document() != first.document());
        assert_eq!(issue(Dialect::Ec2, 1060).credentials().last_updated, at(1060));
        assert_eq!(issue(Dialect::Ec2, 900).credentials().last_updated, at(900), "after the clock was set back");
    }

    #[test]
    fn role_of_a_cloud_has_the_code_of_a_refused_role_of_that_cloud() {
        for (provider, code) in [
            (ProviderKind::AwsWebIdentity, "AssumeRoleUnauthorizedAccess"),
            (ProviderKind::AwsAssumeRole, "AssumeRoleUnauthorizedAccess"),
            (ProviderKind::AliyunOidc, "NoPermission"),
        ] {
            let failure = not_called(provider, at(0));
            assert_eq!((failure.code.as_ref(), failure.cause), (code, FailureCause::ProviderFailed), "{failure}");
        }
    }

    #[test]
    fn expired_credentials_and_failures_are_not_cached() {
        let secret = secret(&[("expiration", "1970-01-01T00:16:50Z")]);
        assert!(secret.credentials(&keys(), Dialect::Ec2, at(1009)).is_ok());
        assert!(secret.credentials(&keys(), Dialect::Ec2, at(1010)).is_err(), "they expire at 1010");
        assert!(secret.credentials(&keys(), Dialect::Ecs, at(1010)).is_err());
        assert_eq!(secret.issued.lock().unwrap().len(), 1);
    }
}
