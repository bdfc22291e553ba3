//! The ID of the cluster: the UID of the namespace `kube-system`, which exists as long as the cluster.

use std::str::FromStr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ListParams};

use super::own_objects::retry_while_unavailable;

/// The ID of the cluster in external IDs: 2 to 128 letters, digits and `-._`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(String);

impl ClusterId {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if (2..=128).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be 2 to 128 letters, digits and -._".to_owned())
        }
    }
}

/// Reads the ID. Retries while the API server is unavailable.
///
/// # Errors
/// If the namespace cannot be listed or does not exist.
pub async fn load(client: &Client) -> Result<ClusterId> {
    // The operator may list namespaces, not get one.
    let namespaces = Api::<Namespace>::all(client.clone());
    let only = ListParams::default().fields("metadata.name=kube-system");
    let uid = retry_while_unavailable("read the UID of the namespace kube-system", || async {
        let namespace = namespaces.list(&only).await?.items.into_iter().next();
        namespace.and_then(|namespace| namespace.metadata.uid).context("the namespace kube-system does not exist")
    });
    let uid = uid.await?;
    uid.parse::<ClusterId>().map_err(|error| anyhow::anyhow!("the UID of the namespace kube-system {error}"))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::cluster::fake_api_server::FakeApiServer;

    #[test]
    fn cluster_id_fits_into_an_external_id() {
        assert!("0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001".parse::<ClusterId>().is_ok());
        for text in ["", "a", "a/b", "a b", &"a".repeat(129)] {
            assert!(text.parse::<ClusterId>().is_err(), "{text:?}");
        }
    }

    async fn load_with(items: serde_json::Value) -> Result<ClusterId> {
        let (client, mut server) = FakeApiServer::new();
        let (id, ()) = tokio::join!(load(&client), async {
            let request = server.expect(Method::GET, "/api/v1/namespaces").await;
            assert!(request.query.contains("fieldSelector=metadata.name%3Dkube-system"), "{}", request.query);
            request.respond(&json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": items}));
        });
        id
    }

    #[tokio::test(start_paused = true)]
    async fn cluster_id_is_the_uid_of_kube_system() {
        let id = load_with(json!([{"metadata": {"name": "kube-system", "uid": "0b1d6f0a-52c4"}}])).await.unwrap();
        assert_eq!(id.as_str(), "0b1d6f0a-52c4");
        assert!(load_with(json!([])).await.is_err());
    }
}
