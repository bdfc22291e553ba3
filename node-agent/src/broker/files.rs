//! The broker of dev mode: everything comes from the files. Providers that ask a cloud are the operator's, and answer with
//! the cloud's error here.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, CredentialsFailure, SecretData, from_secret};
use podmeta_metadata::profile::{KeyRef, MAX_USER_DATA_BYTES};
use podmeta_metadata::role::{Provider, Role};
use podmeta_metadata::signature::{SignedDocument, Signer};
use tokio::sync::Semaphore;

/// Secrets by namespace and name.
pub type Secrets = BTreeMap<(String, String), SecretData>;

/// What files say.
pub struct Files {
    secrets: ArcSwap<Secrets>,
    signer: Arc<Signer>,
    signing: Semaphore,
}

impl Files {
    /// A broker that signs with `signer` and knows no Secret yet.
    #[must_use]
    pub fn new(signer: Signer) -> Arc<Self> {
        Arc::new(Self { secrets: ArcSwap::default(), signer: Arc::new(signer), signing: Semaphore::new(1) })
    }

    /// Replaces all Secrets.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.secrets.store(Arc::new(secrets));
    }

    /// User data in a Secret.
    pub(super) fn secret(&self, namespace: &str, key: &KeyRef) -> Result<Bytes, String> {
        let secrets = self.secrets.load();
        let data = secrets.get(&(namespace.to_owned(), key.name.clone())).and_then(|data| data.get(&key.key));
        match data {
            Some(data) if data.len() <= MAX_USER_DATA_BYTES => Ok(Bytes::copy_from_slice(data)),
            Some(_) => Err(format!("Secret {namespace}/{} key {} is longer than 16 KiB", key.name, key.key)),
            None => Err(format!("Secret {namespace}/{} or its key {} does not exist", key.name, key.key)),
        }
    }

    /// Credentials of a role.
    pub(super) fn credentials(
        &self,
        namespace: &str,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let fail = |code: &'static str, message| CredentialsFailure { code: code.into(), message, at: now };
        let Provider::Secret { name } = &role.provider else {
            let kind = role.provider.kind();
            let message =
                format!("{kind} asks a cloud for credentials, which the dev server cannot; use a secret provider");
            return Err(fail("AssumeRoleUnauthorizedAccess", message));
        };
        let secrets = self.secrets.load();
        let Some(data) = secrets.get(&(namespace.to_owned(), name.clone())) else {
            return Err(fail("Failed", format!("Secret {namespace}/{name} does not exist")));
        };
        from_secret(data, now).map_err(|why| fail("Failed", format!("Secret {namespace}/{name}: {why}")))
    }

    /// Signs a document, which takes milliseconds, away from the thread that answers. Signatures take turns, so that many
    /// of them leave the other processors free; whoever asks for one waits for those that were asked before.
    pub(super) async fn sign(&self, document: String) -> Result<SignedDocument, String> {
        let gone = |what: &dyn std::fmt::Display| format!("the identity document could not be signed: {what}");
        let _turn = self.signing.acquire().await.map_err(|closed| gone(&closed))?;
        let signer = Arc::clone(&self.signer);
        let signed = tokio::task::spawn_blocking(move || signer.sign(&document)).await;
        signed.map_err(|panicked| gone(&panicked))?.map_err(|error| gone(&error))
    }
}
