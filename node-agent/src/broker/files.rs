//! The broker of dev mode. Everything comes from files. Providers that call a cloud return an error here.

use std::collections::BTreeMap;
use std::fmt::Display;
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

/// The broker of dev mode.
pub struct FileBroker {
    secrets: ArcSwap<Secrets>,
    signer: Arc<Signer>,
    signing: Semaphore,
}

impl FileBroker {
    /// Creates a broker without Secrets.
    #[must_use]
    pub fn new(signer: Signer) -> Arc<Self> {
        Arc::new(Self { secrets: ArcSwap::default(), signer: Arc::new(signer), signing: Semaphore::new(1) })
    }

    /// Replaces all Secrets.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.secrets.store(Arc::new(secrets));
    }

    pub(super) fn user_data(&self, namespace: &str, key: &KeyRef) -> Result<Bytes, String> {
        let secrets = self.secrets.load();
        let data = secrets.get(&(namespace.to_owned(), key.name.clone()));
        user_data::from_secret(namespace, key, data).map(Bytes::copy_from_slice)
    }

    pub(super) fn credentials(
        &self,
        namespace: &str,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let Provider::Secret { name } = &role.provider else {
            let kind = role.provider.kind();
            let message = format!("{kind} needs a call to a cloud, which the dev server does not make; use secret");
            return Err(CredentialsFailure::of_provider(message, now));
        };
        let secrets = self.secrets.load();
        from_role_secret(namespace, name, secrets.get(&(namespace.to_owned(), name.clone())), now)
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
