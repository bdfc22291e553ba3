//! Gets what an answer needs from outside the tree: credentials, data of Secrets, signatures.

mod files;
pub mod operator;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use podmeta_metadata::credentials::{Credentials, CredentialsFailure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::rejection::Rejection;
use podmeta_metadata::role::Role;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::{Link, PodRef, Workload};

pub use files::{Files, Secrets};
pub use operator::Operator;

/// Whom the edge asks. Calls to the operator are boxed: a connection has room for all that it may ever wait for, and most
/// wait for none of this.
pub enum Broker {
    /// The files of dev mode.
    Files(Arc<Files>),
    /// The operator.
    Operator(Arc<Operator>),
}

impl Broker {
    /// A pod's user data that is in a Secret.
    ///
    /// # Errors
    /// If the Secret or the key is missing, or the data too long for user data.
    pub async fn user_data(&self, pod: &PodRef, key: &KeyRef) -> Result<Bytes, String> {
        match self {
            Self::Files(files) => files.secret(&pod.namespace, key),
            Self::Operator(operator) => Box::pin(operator.user_data(&pod.uid, key)).await,
        }
    }

    /// Credentials of a pod's role.
    ///
    /// # Errors
    /// If there are none; the failure is served in the cloud's own words.
    pub async fn credentials(
        &self,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        match self {
            Self::Files(files) => files.credentials(&workload.pod.namespace, role, now),
            Self::Operator(operator) => Box::pin(operator.credentials(workload, dialect, role, now)).await,
        }
    }

    /// A pod's identity document in all its forms.
    ///
    /// # Errors
    /// If the pod has none in that dialect, or it could not be signed.
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
        let signed = match (self, audience) {
            (Self::Files(files), _) => files.sign(text).await,
            (Self::Operator(operator), None) => Box::pin(operator.document(pod, link, dialect, &text)).await,
            (Self::Operator(operator), audience) => Box::pin(operator.sign(pod, link, dialect, audience)).await,
        };
        signed.map_err(Rejection::Unavailable)
    }
}
