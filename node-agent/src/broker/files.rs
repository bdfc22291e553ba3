//! The broker of dev mode: everything comes from the files. Providers that ask a cloud are the operator's, and answer with
//! the cloud's error here.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, CredentialsFailure, SecretData, from_role_secret};
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::role::{Provider, Role};
use podmeta_metadata::signature::{SignedDocument, Signer};
use podmeta_metadata::user_data;
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
        let data = secrets.get(&(namespace.to_owned(), key.name.clone()));
        user_data::from_secret(namespace, key, data).map(Bytes::copy_from_slice)
    }

    /// Credentials of a role.
    pub(super) fn credentials(
        &self,
        namespace: &str,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let Provider::Secret { name } = &role.provider else {
            let kind = role.provider.kind();
            let message =
                format!("{kind} asks a cloud for credentials, which the dev server cannot; use a secret provider");
            return Err(CredentialsFailure::of_provider(message, now));
        };
        let secrets = self.secrets.load();
        from_role_secret(namespace, name, secrets.get(&(namespace.to_owned(), name.clone())), now)
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
