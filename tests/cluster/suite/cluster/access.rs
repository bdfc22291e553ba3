//! Authentication and authorization by the API server.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::kit::{self, TestCluster};

#[tokio::test]
async fn token_review_of_pod_token_returns_node_and_pod() -> Result<()> {
    kit::cluster_test(async |cluster, namespace| {
        for letter in ["a", "b"] {
            let node = cluster.node(letter)?.name;
            let pod = namespace.start_client(letter, json!({"nodeName": node})).await?;
            let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
            let token = namespace.run(letter, &["cat", path]).await?;
            let review =
                TokenReview { spec: TokenReviewSpec { token: Some(token), audiences: None }, ..TokenReview::default() };
            let reviews = Api::<TokenReview>::all(cluster.client.clone());
            let status = reviews.create(&PostParams::default(), &review).await?.status;
            let user = status.and_then(|status| status.user).context("the token was not authenticated")?;
            let extra = |name: &str| user.extra.as_ref().and_then(|extra| extra.get(name)?.first().cloned());
            ensure!(extra("authentication.kubernetes.io/node-name") == Some(node), "{user:?}");
            ensure!(extra("authentication.kubernetes.io/pod-uid") == pod.uid(), "{user:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn service_account_without_role_gets_403() -> Result<()> {
    kit::cluster_test(async |_, namespace| {
        namespace.start_client("client", json!({})).await?;
        let api = "https://kubernetes.default.svc";
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            r#"curl -sS --max-time 5 --cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)" \
               -o /dev/null -w '%{{http_code}}' {api}/api/v1/namespaces/{}/secrets"#,
            namespace.name
        );
        ensure!(namespace.run("client", &["sh", "-c", &script]).await? == "403");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubelet_cannot_read_or_change_objects_of_another_node() -> Result<()> {
    kit::cluster_test(async |cluster, namespace| {
        let (a, b) = (cluster.node("a")?, cluster.node("b")?);
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "of-b"}, "stringData": {"key": "value"}});
        namespace.apply(&secret.to_string()).await?;
        let volume = json!([{"name": "secret", "secret": {"secretName": "of-b"}}]);
        namespace.start_client("reader", json!({"nodeName": b.name, "volumes": volume})).await?;
        let (kubelet_a, kubelet_b) = (kubelet_client(cluster, &a.name)?, kubelet_client(cluster, &b.name)?);
        let read = async |client: &Client| Api::<Secret>::namespaced(client.clone(), &namespace.name).get("of-b").await;
        read(&kubelet_b).await.context("the kubelet of node b cannot read the Secret of its pod")?;
        ensure!(is_forbidden(&read(&kubelet_a).await), "the kubelet of node a can read a Secret of node b");

        let label = Patch::Merge(json!({"metadata": {"labels": {"example.com/touched": "yes"}}}));
        let patched = Api::<Node>::all(kubelet_a).patch(&b.name, &PatchParams::default(), &label).await;
        ensure!(is_forbidden(&patched), "the kubelet of node a can change node b");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn service_account_issuer_publishes_signing_keys() -> Result<()> {
    kit::cluster_test(async |cluster, namespace| {
        let get = async |path: &str| -> Result<Value> {
            let request = http::Request::get(path).body(Vec::new())?;
            Ok(serde_json::from_str(&cluster.client.request_text(request).await?)?)
        };
        let discovery = get("/.well-known/openid-configuration").await?;
        namespace.wait_for_service_account().await?;
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["sts.example"]}});
        let accounts = namespace.api::<ServiceAccount>();
        let token = accounts.create_token_request("default", &PostParams::default(), &serde_json::from_value(request)?).await?;
        let token = token.status.context("no token was issued")?.token;
        let jwt_part = |position: usize| -> Result<Value> {
            use base64::Engine as _;
            let text = token.split('.').nth(position).context("the token is not a JWT")?;
            Ok(serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text)?)?)
        };
        ensure!(jwt_part(1)?["iss"] == discovery["issuer"], "{discovery}");
        let keys = get("/openid/v1/jwks").await?;
        let ids: Vec<_> = keys["keys"].as_array().into_iter().flatten().map(|key| key["kid"].clone()).collect();
        ensure!(ids.contains(&jwt_part(0)?["kid"]), "{keys}");
        Ok(())
    })
    .await
}

/// Returns a client that impersonates the kubelet of a node.
fn kubelet_client(cluster: &TestCluster, node: &str) -> Result<Client> {
    let mut config = cluster.config();
    config.auth_info.impersonate = Some(format!("system:node:{node}"));
    config.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]);
    Ok(Client::try_from(config)?)
}

fn is_forbidden<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == 403)
}
