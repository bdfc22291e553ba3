//! The operator's serving certificate: podmeta's own CA, or a certificate from a Secret.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use podmeta_cluster::kubernetes::pki::{CertificateSubject, ClusterCa};
use serde_json::json;

use super::fixtures::{edit_profile, start_pod_with_credentials};
use crate::kit::{self, AGENT_LABEL, OPERATOR_LABEL, Podmeta, eventually};

#[tokio::test]
async fn serving_certificate_with_wrong_key_is_replaced_without_restart() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let restarts = async || -> Result<Vec<(String, i32)>> {
            let count = |pod: &Pod| {
                let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                (pod.name_any(), statuses.map(|status| status.restart_count).sum())
            };
            Ok(podmeta.pods(OPERATOR_LABEL).await?.iter().map(count).collect())
        };
        let before = restarts().await?;
        let secrets = podmeta.system.api::<Secret>();
        let serving_certificate = async || -> Result<Option<Vec<u8>>> {
            let secret = secrets.get("podmeta-operator-tls").await?;
            Ok(secret.data.and_then(|mut data| data.remove("tls.crt")).map(|bytes| bytes.0))
        };
        let old = serving_certificate().await?.context("the Secret has no certificate")?;
        // Any replica that finds a key that does not match the certificate issues a new pair.
        let wrong_key = json!({"stringData": {"tls.key": "no key"}});
        secrets.patch("podmeta-operator-tls", &PatchParams::default(), &Patch::Merge(&wrong_key)).await?;
        eventually(Duration::from_secs(90), "the Secret has a new certificate", async || {
            ensure!(serving_certificate().await?.is_some_and(|new| new != old), "the certificate did not change");
            Ok(())
        })
        .await?;
        edit_profile(podmeta, namespace, &node, "two").await?;
        ensure!(restarts().await? == before, "an operator pod was restarted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn serving_certificate_of_another_ca_is_served_and_trusted() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let dir = std::env::temp_dir().join(&namespace.name);
        let ca = ClusterCa::open(&dir)?;
        std::fs::remove_dir_all(&dir)?;
        let name = format!("podmeta-operator.{}.svc", podmeta.system.name);
        let subject = CertificateSubject { name: "operator", group: None, dns_names: &[&name], addresses: &[] };
        let pem = ca.issue(&subject)?;
        let key_start = pem.find("-----BEGIN PRIVATE KEY-----").context("the PEM has no key")?;
        let (certificate, key) = pem.split_at(key_start);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": namespace.name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": ca.certificate()},
        });
        podmeta.system.apply(&secret.to_string()).await?;
        podmeta.upgrade(&["--set", &format!("operator.tls.secretName={}", namespace.name)]).await?;
        let checks = async {
            restart_agents_with_bundle(podmeta, |bundle| bundle == ca.certificate()).await?;
            edit_profile(podmeta, namespace, &node, "two").await
        };
        let checked: Result<()> = checks.await;
        podmeta.upgrade(&["--set", "operator.tls.secretName="]).await?;
        podmeta.system.api::<Secret>().delete(&namespace.name, &DeleteParams::default()).await?;
        checked?;
        restart_agents_with_bundle(podmeta, |bundle| bundle != ca.certificate()).await?;
        edit_profile(podmeta, namespace, &node, "three").await
    })
    .await
}

/// Waits until a matching CA bundle is published, and deletes the agents' pods. Without a restart, agents see the bundle
/// when the kubelet updates the volume, after up to a minute.
async fn restart_agents_with_bundle(podmeta: &Podmeta, matches: impl Fn(&str) -> bool) -> Result<()> {
    eventually(Duration::from_secs(90), "the CA bundle is published", async || {
        let config_map = podmeta.system.api::<ConfigMap>().get("podmeta-operator-tls").await?;
        let bundle = config_map.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
        ensure!(matches(&bundle), "the published CA bundle is {bundle}");
        Ok(())
    })
    .await?;
    let agents = ListParams::default().labels(AGENT_LABEL);
    podmeta.system.api::<Pod>().delete_collection(&DeleteParams::default(), &agents).await?;
    Ok(())
}
