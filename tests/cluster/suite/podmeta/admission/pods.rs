//! Hosts of probes and hooks, images and host ports of pods.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::Api;
use podmeta_cluster::layout::METADATA_ADDRESSES;
use serde_json::{Value, json};

use super::requests::{Requests, pod};
use crate::kit::{self, Podmeta, TestNamespace, client_pod};
use crate::podmeta::mirror_pods::{STATIC_UID, mirror_pod};
use crate::podmeta::redirection::LINK_ADDRESSES;

/// Texts that programs read as a service address.
const SPELLINGS: [&str; 6] =
    ["169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518", "100.100.100.0200", "[::ffff:a9fe:a9fe]"];

/// Returns a pod whose container `client` has one probe or hook with this host.
fn pod_with_host(field: &str, kind: &str, host: &str) -> Value {
    let action = json!({kind: {"host": host, "port": 80}});
    let fields = match field.strip_prefix("lifecycle.") {
        Some(hook) => json!({"lifecycle": {hook: action}}),
        None => json!({field: action}),
    };
    pod("containers", &fields)
}

#[tokio::test]
async fn probes_and_hooks_with_a_host_other_than_loopback_are_rejected() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let requests = Requests::new::<Pod>(namespace).await?;
        requests.wait_until_rejected(&pod_with_host("livenessProbe", "httpGet", "169.254.169.254")).await?;
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"] {
            for kind in ["httpGet", "tcpSocket"] {
                let message = format!("container client: {field}.{kind}.host is \"example.com\"");
                requests.create(&pod_with_host(field, kind, "example.com"), Err(&message)).await?;
                requests.create(&pod_with_host(field, kind, "127.0.0.1"), Ok(())).await?;
            }
        }
        for host in SPELLINGS.into_iter().chain(METADATA_ADDRESSES).chain(["LOCALHOST", "127.0.0.2", " "]) {
            let remedy = "Remove host to send it to the pod, or use localhost, 127.0.0.1 or ::1";
            requests.create(&pod_with_host("livenessProbe", "httpGet", host), Err(remedy)).await?;
        }
        for host in ["", "localhost", "127.0.0.1", "::1"] {
            requests.create(&pod_with_host("livenessProbe", "httpGet", host), Ok(())).await?;
        }
        let probe = json!({
            "restartPolicy": "Always",
            "readinessProbe": {"httpGet": {"host": "example.com", "port": 80}},
        });
        let message = "container sidecar: readinessProbe.httpGet.host is \"example.com\"";
        requests.create(&pod("initContainers", &probe), Err(message)).await?;
        // The Host header is no destination, and other kinds of probes have no host.
        for probe in [
            json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "Host", "value": "169.254.169.254"}]}}),
            json!({"exec": {"command": ["true"]}}),
            json!({"grpc": {"port": 80}}),
        ] {
            requests.create(&pod("containers", &json!({"livenessProbe": probe})), Ok(())).await?;
        }
        check_exempt_pods(podmeta, namespace).await
    })
    .await
}

/// Checks that pods of kube-system and mirror pods may have any host.
async fn check_exempt_pods(podmeta: &Podmeta, namespace: &TestNamespace) -> Result<()> {
    let client = podmeta.cluster.client.clone();
    let system = TestNamespace { client: client.clone(), name: "kube-system".to_owned() };
    // As in NodeLocal DNSCache.
    let local_dns = pod_with_host("livenessProbe", "httpGet", "169.254.20.10");
    Requests::new::<Pod>(&system).await?.create(&local_dns, Ok(())).await?;

    let node = podmeta.cluster.node("a")?;
    let kubelet = Client::try_from(node.kubelet_config(podmeta.cluster.config()).await?)?;
    let node = Api::<Node>::all(client).get(&node.name).await?;
    let mut mirror = mirror_pod("mirror", &node, STATIC_UID);
    if let Some(Value::Object(container)) = mirror.pointer_mut("/spec/containers/0") {
        let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let address = addresses.into_iter().find(|address| address.type_ == "InternalIP").context("no address")?;
        // As in kubeadm's API server.
        let probe = json!({"httpGet": {"host": address.address, "port": 6443, "scheme": "HTTPS"}});
        container.insert("livenessProbe".to_owned(), probe);
    }
    let of_kubelet = TestNamespace { client: kubelet, name: namespace.name.clone() };
    Requests::of_pods(&of_kubelet).create(&mirror, Ok(())).await
}

#[tokio::test]
async fn images_of_a_registry_with_a_service_address_are_rejected() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let requests = Requests::new::<Pod>(namespace).await?;
        let with_image = |image: &str| pod("containers", &json!({"image": image}));
        requests.wait_until_rejected(&with_image("169.254.169.254/a")).await?;
        let spelled = SPELLINGS.map(|host| format!("{host}:80/latest/meta-data:1"));
        let others =
            ["169.254.1.1/a", "0XA9FEA9FE/a", "169.254.169.254/a@sha256:00", "[fd00:ec2::254]/a", "[fe80::1]:5000/a"];
        for image in spelled.into_iter().chain(others.map(str::to_owned)) {
            let message =
                format!("image \"{image}\": the registry is a link-local address, a service address or an unusual");
            requests.create(&with_image(&image), Err(&message)).await?;
        }
        for image in [
            "client",
            "library/client:1",
            "2852039166/client",
            "podmeta.test/client:1",
            "registry.k8s.io/pause@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "localhost:5000/client",
            "10.0.0.5:5000/client",
            "[fd00::5]:5000/client",
            "registry-1.docker.io/169.254.169.254/client",
        ] {
            requests.create(&with_image(image), Ok(())).await?;
        }
        let volume = |image: &str| {
            let volume = json!({"name": "v", "image": {"reference": image, "pullPolicy": "IfNotPresent"}});
            kit::with_spec(client_pod("web", "web", json!({})), json!({"volumes": [volume]}))
        };
        requests.create(&volume("169.254.169.254/a"), Err("image \"169.254.169.254/a\"")).await?;
        requests.create(&volume("podmeta.test/client:1"), Ok(())).await?;
        requests.create(&pod("initContainers", &json!({"image": "0xa9fea9fe:80/a"})), Err("0xa9fea9fe:80/a")).await
    })
    .await
}

#[tokio::test]
async fn update_cannot_add_an_image_of_a_service_address() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let requests = Requests::new::<Pod>(namespace).await?;
        requests.wait_until_rejected(&pod("containers", &json!({"image": "169.254.169.254/a"}))).await?;
        // The pod is never scheduled.
        let held = json!({"schedulingGates": [{"name": "podmeta.test/held"}]});
        namespace.apply(&client_pod("held", "held", held).to_string()).await?;
        let image = |image: &str| json!({"spec": {"containers": [{"name": "client", "image": image}]}});
        let rejected = "image \"100.100.100.200:80/a\": the registry is";
        requests.patch("held", None, &image("100.100.100.200:80/a"), Err(rejected)).await?;
        requests.patch("held", None, &image("podmeta.test/client:2"), Ok(())).await?;
        let debugger = |image: &str| json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": image}]}});
        let subresource = Some("ephemeralcontainers");
        requests.patch("held", subresource, &debugger("100.100.100.200:80/a"), Err(rejected)).await?;
        requests.patch("held", subresource, &debugger("podmeta.test/client:2"), Ok(())).await
    })
    .await
}

#[tokio::test]
async fn host_ports_with_a_service_address_are_rejected() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let requests = Requests::new::<Pod>(namespace).await?;
        let with_host_ip = |address: &str| {
            pod("containers", &json!({"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": address}]}))
        };
        requests.wait_until_rejected(&with_host_ip("169.254.169.254")).await?;
        for address in METADATA_ADDRESSES.into_iter().chain(LINK_ADDRESSES).chain(["::ffff:100.100.100.200"]) {
            let message = format!("container client: ports.hostIP is \"{address}\"");
            requests.create(&with_host_ip(address), Err(&message)).await?;
        }
        for address in ["", "127.0.0.1", "10.0.0.5", "fd00::5"] {
            requests.create(&with_host_ip(address), Ok(())).await?;
        }
        Ok(())
    })
    .await
}
