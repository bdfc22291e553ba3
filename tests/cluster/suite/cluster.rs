//! The cluster is what podmeta's users have: two real nodes, with the rules that podmeta relies on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::kit::{self, Cluster, addresses};

#[tokio::test]
async fn two_nodes_are_ready_with_an_address_of_each_kind_and_the_labels_of_a_cloud() -> Result<()> {
    kit::test(async |cluster, _| {
        let nodes = Api::<Node>::all(cluster.client.clone()).list(&ListParams::default()).await?;
        ensure!(cluster.nodes().len() >= 2, "there are {} nodes", cluster.nodes().len());
        for node in nodes {
            let status = node.status.clone().unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let addresses = status.addresses.unwrap_or_default();
            let internal = addresses.iter().filter(|address| address.type_ == "InternalIP").count();
            ensure!(ready && internal == 2, "{}: Ready is {ready}, with {internal} addresses", node.name_any());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_reach_one_another_across_nodes_by_address_service_and_name() -> Result<()> {
    kit::test(async |cluster, namespace| {
        let (a, b) = (cluster.node("a")?.name, cluster.node("b")?.name);
        let serve = json!(["python3", "-m", "http.server", "--bind", "::", "8080"]);
        let image = podmeta_cluster::images::CLIENT;
        let container = json!([{"name": "web", "image": image, "imagePullPolicy": "Never", "command": serve, "workingDir": "/opt"}]);
        let (asker, server) = tokio::try_join!(
            namespace.client("asker", json!({"nodeName": a})),
            namespace.client("server", json!({"nodeName": b, "containers": container})),
        )?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}], "ipFamilyPolicy": "RequireDualStack"},
        });
        namespace.apply(&service.to_string()).await?;
        let (ipv4, ipv6) = addresses(&server)?;
        ensure!(asker.spec.and_then(|spec| spec.node_name) != server.spec.and_then(|spec| spec.node_name));
        let name = format!("http://server.{}.svc.cluster.local/", namespace.name);
        for url in [format!("http://{ipv4}:8080/"), format!("http://[{ipv6}]:8080/"), name, "http://server/".to_owned()] {
            let retry = ["curl", "-gsSf", "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--max-time", "5", &url];
            let listing = namespace.run("asker", &retry).await?;
            ensure!(listing.contains("clients/"), "{url}: {listing}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_review_of_a_pod_s_token_names_its_node_and_the_pod() -> Result<()> {
    kit::test(async |cluster, namespace| {
        for letter in ["a", "b"] {
            let node = cluster.node(letter)?.name;
            let pod = namespace.client(letter, json!({"nodeName": node})).await?;
            let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
            let token = namespace.run(letter, &["cat", path]).await?;
            let review =
                TokenReview { spec: TokenReviewSpec { token: Some(token), audiences: None }, ..TokenReview::default() };
            let answer =
                Api::<TokenReview>::all(cluster.client.clone()).create(&PostParams::default(), &review).await?;
            let user = answer.status.and_then(|status| status.user).context("the token is not known")?;
            let extra = |name: &str| user.extra.as_ref().and_then(|extra| extra.get(name)?.first().cloned());
            ensure!(extra("authentication.kubernetes.io/node-name") == Some(node), "{user:?}");
            ensure!(extra("authentication.kubernetes.io/pod-uid") == pod.uid(), "{user:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_account_may_do_nothing_that_it_was_not_allowed() -> Result<()> {
    kit::test(async |_, namespace| {
        namespace.client("nobody", json!({})).await?;
        let api = "https://kubernetes.default.svc";
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            r#"curl -sS --max-time 5 --cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)" \
               -o /dev/null -w '%{{http_code}}' {api}/api/v1/namespaces/{}/secrets"#,
            namespace.name
        );
        ensure!(namespace.run("nobody", &["sh", "-c", &script]).await? == "403");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_kubelet_sees_and_changes_what_is_its_own_node_s_and_nothing_else() -> Result<()> {
    kit::test(async |cluster, namespace| {
        let (a, b) = (cluster.node("a")?, cluster.node("b")?);
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "of-b"}, "stringData": {"key": "value"}});
        namespace.apply(&secret.to_string()).await?;
        let volume = json!([{"name": "secret", "secret": {"secretName": "of-b"}}]);
        namespace.client("reader", json!({"nodeName": b.name, "volumes": volume})).await?;
        let (kubelet_a, kubelet_b) = (as_kubelet(cluster, &a.name)?, as_kubelet(cluster, &b.name)?);
        let read = async |client: &Client| Api::<Secret>::namespaced(client.clone(), &namespace.name).get("of-b").await;
        read(&kubelet_b).await.context("node b runs a pod with the Secret")?;
        ensure!(is_forbidden(&read(&kubelet_a).await), "node a has no pod with the Secret");

        let label = kube::api::Patch::Merge(json!({"metadata": {"labels": {"example.com/touched": "yes"}}}));
        let patched = Api::<Node>::all(kubelet_a).patch(&b.name, &kube::api::PatchParams::default(), &label).await;
        ensure!(is_forbidden(&patched), "node a may not change node b");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn whoever_trusts_the_issuer_can_find_its_keys() -> Result<()> {
    kit::test(async |cluster, namespace| {
        let get = async |path: &str| -> Result<Value> {
            let request = http::Request::get(path).body(Vec::new())?;
            Ok(serde_json::from_str(&cluster.client.request_text(request).await?)?)
        };
        let discovery = get("/.well-known/openid-configuration").await?;
        namespace.default_service_account().await?;
        let requested = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["sts.example"]}});
        let accounts = namespace.api::<ServiceAccount>();
        let token = accounts.create_token_request("default", &PostParams::default(), &serde_json::from_value(requested)?).await?;
        let token = token.status.context("no token")?.token;
        let part = |place: usize| -> Result<Value> {
            use base64::Engine as _;
            let text = token.split('.').nth(place).context("no JWT")?;
            Ok(serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text)?)?)
        };
        ensure!(part(1)?["iss"] == discovery["issuer"], "{discovery}");
        let keys = get("/openid/v1/jwks").await?;
        let ids: Vec<_> = keys["keys"].as_array().into_iter().flatten().map(|key| key["kid"].clone()).collect();
        ensure!(ids.contains(&part(0)?["kid"]), "{keys}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_live_on_while_their_kubelet_is_killed_and_started_again() -> Result<()> {
    kit::disturbing_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        let before = namespace.client("survivor", json!({"nodeName": node.name})).await?;
        node.restart_kubelet().await?;
        let after = namespace.api::<Pod>().get("survivor").await?;
        let started =
            |pod: &Pod| pod.status.clone().and_then(|status| status.container_statuses?.first()?.container_id.clone());
        ensure!(started(&before).is_some() && started(&before) == started(&after), "its container is another");
        // A new kubelet is Ready before it has seen its pods again.
        let runs = async || namespace.run("survivor", &["true"]).await.map(drop);
        kit::within(Duration::from_secs(30), "a command runs in it", runs).await
    })
    .await
}

/// A client with the rights of a node's kubelet: the administrator acts as it.
fn as_kubelet(cluster: &Cluster, node: &str) -> Result<Client> {
    let mut config = cluster.config();
    config.auth_info.impersonate = Some(format!("system:node:{node}"));
    config.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]);
    Ok(Client::try_from(config)?)
}

fn is_forbidden<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == 403)
}
