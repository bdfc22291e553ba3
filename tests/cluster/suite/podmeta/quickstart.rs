//! The quick start of the documentation.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use podmeta_cluster::images::CLIENT;
use podmeta_cluster::machine::command_output;
use podmeta_cluster::programs::KUBERNETES_MODULE;
use podmeta_crds::conditions::{ACCEPTED, PROGRAMMED};
use tokio::process::Command;

use super::fixtures::{GET_INSTANCE_ID, instance_id};
use crate::kit::{self, has_condition};

const QUICKSTART_MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/quickstart-cluster.yaml");

/// The image of the pods in the manifest.
const QUICKSTART_IMAGE: &str = "curlimages/curl:8.11.1";

#[tokio::test]
async fn quickstart_profile_is_accepted_and_programmed_for_both_pods() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        let program = KUBERNETES_MODULE.build()?.join("kubectl");
        let kubectl = async |arguments: &[&str]| -> Result<String> {
            let mut command = Command::new(&program);
            command.arg("--kubeconfig").arg(&podmeta.cluster.kubeconfig).args(["--namespace", &namespace.name]);
            let output = command.args(arguments).output().await.context("cannot run kubectl")?;
            command_output(&output).with_context(|| format!("kubectl {}", arguments.join(" ")))
        };
        // The cluster cannot pull images.
        let manifest = std::fs::read_to_string(QUICKSTART_MANIFEST)?.replace(QUICKSTART_IMAGE, CLIENT);
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), manifest)?;
        kubectl(&["apply", "-f", file.path().to_str().context("the path is not text")?]).await?;
        let applied = Instant::now();
        let status = podmeta
            .wait_for_status(namespace, "web", "the profile is programmed for both pods", |status| {
                status.programmed_pods == Some(2)
                    && has_condition(status, ACCEPTED, "True")
                    && has_condition(status, PROGRAMMED, "True")
            })
            .await?;
        println!("accepted and programmed {:?} after kubectl apply", applied.elapsed());
        ensure!(status.matched_pods == Some(2), "{status:?}");
        let printed = kubectl(&["get", "mdp"]).await?;
        println!("{printed}");
        let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = lines.next().context("kubectl printed nothing")?;
        ensure!(header == ["NAME", "DIALECTS", "TOKENS", "ACCEPTED", "PROGRAMMED", "PODS", "AGE"], "{printed}");
        let row = lines.next().context("kubectl printed no profile")?;
        ensure!(row.starts_with(&["web", r#"["ec2","ecs"]"#, "required", "True", "True", "2"]), "{printed}");
        kubectl(&["rollout", "status", "deployment/web", "--timeout", "60s"]).await?;
        let printed = kubectl(&["exec", "deployment/web", "--", "sh", "-c", GET_INSTANCE_ID]).await?;
        println!("the pod's instance ID is {printed}");
        let mut ids = Vec::new();
        for pod in namespace.api::<Pod>().list(&ListParams::default().labels("app=web")).await? {
            ids.push(instance_id(podmeta, namespace, &pod.name_any()).await?);
        }
        ensure!(ids.len() == 2 && ids.contains(&printed), "{printed} is not in {ids:?}");
        Ok(())
    })
    .await
}
