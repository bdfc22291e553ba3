//! Objects from before the installation of the policies.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::requests::{Requests, endpoint_slice, endpoints, pod, service};
use crate::kit::{self, Podmeta, eventually, with_spec};

/// The only service address that the API server accepts in all of these objects.
const ADDRESS: &str = "100.100.100.200";

/// Runs `body` while the chart has no policies. Installs them again afterwards, also on errors.
async fn without_policies(podmeta: &Podmeta, body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let result = match podmeta.upgrade(&["--set", "admission.metadataAddresses=false"]).await {
        Ok(()) => body().await,
        Err(error) => Err(error),
    };
    let restored = podmeta.upgrade(&["--set", "admission.metadataAddresses=true"]).await;
    result.and(restored)
}

/// Returns an object of each kind that the policies reject.
fn rejected_objects() -> [Value; 4] {
    let container = json!({
        "image": format!("{ADDRESS}:80/a"),
        "livenessProbe": {"httpGet": {"host": ADDRESS, "port": 80}},
        "ports": [{"containerPort": 9, "hostPort": 9, "hostIP": ADDRESS}],
    });
    [
        // The pod is never scheduled.
        with_spec(pod("containers", &container), json!({"schedulingGates": [{"name": "podmeta.test/held"}]})),
        service("web", json!({"externalIPs": [ADDRESS], "ports": [{"port": 9}]})),
        endpoint_slice("web", "IPv4", &json!([ADDRESS])),
        endpoints("listed", "addresses", ADDRESS),
    ]
}

#[tokio::test]
async fn objects_from_before_the_policies_can_be_changed() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let pods = Requests::new::<Pod>(namespace).await?;
        let services = Requests::new::<Service>(namespace).await?;
        let slices = Requests::new::<EndpointSlice>(namespace).await?;
        let lists = Requests::new::<Endpoints>(namespace).await?;
        let objects = rejected_objects();
        without_policies(podmeta, async || {
            for object in &objects {
                eventually(Duration::from_secs(20), "the policies are not enforced", async || {
                    namespace.apply(&object.to_string()).await
                })
                .await?;
            }
            Ok(())
        })
        .await?;

        let kinds = [(&pods, "web"), (&services, "web"), (&slices, "web"), (&lists, "listed")];
        for ((requests, name), object) in kinds.into_iter().zip(&objects) {
            let mut renamed = object.clone();
            if let Some(metadata) = renamed.get_mut("metadata") {
                *metadata = json!({"name": "new"});
            }
            requests.wait_until_rejected(&renamed).await?;
            let metadata = json!({"metadata": {"labels": {"changed": "true"}, "finalizers": null}});
            requests.patch(name, None, &metadata, Ok(())).await?;
        }
        let image = |image: &str| json!({"spec": {"containers": [{"name": "client", "image": image}]}});
        pods.patch("web", None, &image("podmeta.test/client:2"), Ok(())).await?;
        pods.patch("web", None, &image("169.254.169.254/a"), Err("169.254.169.254/a")).await?;
        let external = |address: &str| json!({"spec": {"externalIPs": [ADDRESS, address]}});
        services.patch("web", None, &external("192.0.2.1"), Ok(())).await?;
        services.patch("web", None, &external("fd00:ec2::254"), Err("spec.externalIPs is \"fd00:ec2::254\"")).await?;
        let not_ready = json!({"endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": false}}]});
        slices.patch("web", None, &not_ready, Err("endpoints.addresses is")).await?;
        slices.patch("web", None, &json!({"endpoints": []}), Ok(())).await
    })
    .await
}
