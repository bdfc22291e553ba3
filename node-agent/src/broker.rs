//! Gets what a response needs from outside the tree: credentials, data of Secrets, and signatures.

mod files;
mod issued;
pub mod operator;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use podmeta_metadata::credentials::CredentialsFailure;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::rejection::Rejection;
use podmeta_metadata::role::Role;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::{Link, PodRef, Workload};

pub use files::{FileBroker, Secrets};
pub use issued::IssuedCredentials;
pub use operator::OperatorBroker;

/// The source of credentials, user data and signatures. Futures of the operator are boxed, because each connection
/// reserves memory for its largest future and most never use one.
pub enum Broker {
    /// The files of dev mode.
    Files(Arc<FileBroker>),
    /// The operator.
    Operator(Arc<OperatorBroker>),
}

impl Broker {
    /// Returns user data of a pod that is in a Secret.
    ///
    /// # Errors
    /// If the Secret or key does not exist, or the value is too long for user data.
    pub async fn user_data(&self, pod: &PodRef, key: &KeyRef) -> Result<Bytes, String> {
        match self {
            Self::Files(files) => files.user_data(&pod.namespace, key),
            Self::Operator(operator) => Box::pin(operator.user_data(&pod.uid, key)).await,
        }
    }

    /// Returns credentials of a pod's role.
    ///
    /// # Errors
    /// If there are none. The pod gets the failure in the cloud's error document.
    pub async fn credentials(
        &self,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        match self {
            Self::Files(files) => files.credentials(&workload.pod.namespace, dialect, role, now),
            Self::Operator(operator) => Box::pin(operator.credentials(workload, dialect, role, now)).await,
        }
    }

    /// Returns credentials of a pod's role, or `None` if they are not cached. The files of dev mode count as a cache.
    #[must_use]
    pub fn cached_credentials(
        &self,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Option<Result<IssuedCredentials, CredentialsFailure>> {
        match self {
            Self::Files(files) => Some(files.credentials(&workload.pod.namespace, dialect, role, now)),
            Self::Operator(operator) => operator.cached_credentials(&workload.pod.uid, dialect, role, now),
        }
    }

    /// Returns a pod's signed identity document in all its forms.
    ///
    /// # Errors
    /// If the dialect has no document, or it cannot be signed.
    pub async fn document(
        &self,
        workload: &Workload,
        link: &Link,
        dialect: Dialect,
        audience: Option<String>,
    ) -> Result<SignedDocument, Rejection> {
        let text = dialect.protocol().document(workload, link, audience.as_deref());
        let text = text.ok_or(Rejection::NotFound)?;
        let pod = &workload.pod.uid;
        let signed = match self {
            Self::Files(files) => files.sign(text).await,
            Self::Operator(operator) => Box::pin(operator.document(pod, link, dialect, audience, text)).await,
        };
        signed.map_err(Rejection::Unavailable)
    }
}
