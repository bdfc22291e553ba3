//! A pod whose link cannot be made does not start. Its event names the pod, the cause and the remedy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::runtime::conditions::is_pod_running;
use serde_json::{Value, json};

use super::fixtures::profile;
use super::node_network::NodeNetwork;
use crate::kit::{self, Podmeta, TestNamespace, client_pod, eventually};

/// Adds a route to a service address to the network configuration of a node, as a network plugin can for all its pods.
async fn add_route(network: &NodeNetwork<'_>, address: &str) -> Result<()> {
    let mut config = network.config()?;
    let ipam = config.pointer_mut("/plugins/0/ipam").and_then(Value::as_object_mut);
    let ipam = ipam.context("the network configuration has no ipam")?;
    let routes = ipam.entry("routes").or_insert_with(|| json!([]));
    routes.as_array_mut().context("routes is not a list")?.push(json!({"dst": format!("{address}/32")}));
    network.write(&config.to_string()).await
}

/// Starts pod `web`, and checks the event of its failed sandbox.
async fn check_event(namespace: &TestNamespace, node: &str) -> Result<()> {
    namespace.wait_for_service_account().await?;
    namespace.apply(&client_pod("web", "web", json!({"nodeName": node})).to_string()).await?;
    let events = ListParams::default().fields("involvedObject.name=web,reason=FailedCreatePodSandBox");
    let message = eventually(Duration::from_secs(60), "the pod has the event", async || {
        let events = namespace.api::<Event>().list(&events).await?;
        events.items.into_iter().find_map(|event| event.message).context("no event FailedCreatePodSandBox")
    })
    .await?;
    let pod = format!("podmeta cannot make the metadata link of pod {}/web", namespace.name);
    let cause = "the pod has a route to 100.100.100.200 that is not podmeta's";
    for text in [pod.as_str(), cause, "remove it from the pod"] {
        ensure!(message.contains(text), "no {text:?} in the event: {message}");
    }
    println!("{message}");
    let phase = namespace.api::<Pod>().get("web").await?.status.and_then(|status| status.phase);
    ensure!(phase.as_deref() == Some("Pending"), "{phase:?}");
    Ok(())
}

/// Waits until pod `web` runs and gets its instance ID.
async fn check_start(podmeta: &Podmeta, namespace: &TestNamespace) -> Result<()> {
    namespace.wait_for::<Pod>("web", "the pod runs", is_pod_running()).await?;
    podmeta.wait_until_programmed(namespace, "web", 1).await?;
    let url = "http://100.100.100.200/latest/meta-data/instance-id";
    let printed = namespace.curl("web", url).await?;
    let name = format!("{}/web", namespace.name);
    let node = namespace.node_of("web").await?;
    let expected = podmeta.query_until_ok(&node, &[&name, "ecs", "/latest/meta-data/instance-id"]).await?;
    ensure!(printed == expected, "got {printed}, expected {expected}");
    Ok(())
}

#[tokio::test]
async fn pod_with_a_foreign_route_to_a_service_address_has_an_event_and_starts_without_the_route() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let options = json!({"httpTokens": "optional"});
        namespace.apply(&profile("web", json!({"dialects": ["ecs"], "metadataOptions": options}))).await?;
        let node = podmeta.cluster.node("a")?;
        let network = NodeNetwork::read(&node).await?;
        let checked = match add_route(&network, "100.100.100.200").await {
            Ok(()) => check_event(namespace, &node.name).await,
            Err(error) => Err(error),
        };
        network.restore().await?;
        checked?;
        check_start(podmeta, namespace).await
    })
    .await
}
