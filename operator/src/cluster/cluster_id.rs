//! The ID of the cluster: the UID of the namespace `kube-system`, which lives as long as the cluster.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ListParams};

use super::own_objects::retry_while_unavailable;
use crate::credentials::settings::ClusterId;

/// Reads the ID. Retries while the API server is unavailable.
///
/// # Errors
/// If the namespace cannot be listed or does not exist.
pub async fn load(client: &Client) -> Result<ClusterId> {
    // The operator may list namespaces, not get one.
    let namespaces = Api::<Namespace>::all(client.clone());
    let only = ListParams::default().fields("metadata.name=kube-system");
    let uid = retry_while_unavailable("the UID of the namespace kube-system", || async {
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
