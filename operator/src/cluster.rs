//! Access to the Kubernetes API: watches, the operator's own Secrets and ConfigMaps, and events. There are watches of whole
//! kinds, of the Secrets that profiles may use, and of single ConfigMaps. Each change becomes a
//! [`StateUpdate`](crate::model::update::StateUpdate).

pub mod cluster_id;
pub mod events;
#[cfg(test)]
pub(crate) mod fake_api_server;
pub mod object;
pub mod own_objects;
pub mod references;
pub mod secrets;
pub mod watch;
pub mod watch_client;

/// The field manager and event source of the operator.
pub const FIELD_MANAGER: &str = "podmeta-operator";

/// Error of a request to which the API server did not respond in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server did not respond in time")]
pub struct ApiTimeout;
