//! Runs helm with the chart of this checkout.

use anyhow::{Context as _, Result};
use podmeta_cluster::machine::command_output;
use podmeta_cluster::programs::HELM_MODULE;
use serde_json::Value;
use tokio::process::Command;

use super::TestCluster;

/// The namespace that podmeta is installed in.
pub(super) const SYSTEM_NAMESPACE: &str = "podmeta-system";

/// Directory of the chart.
pub(super) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/podmeta");

/// Renders the chart with these values. Returns its objects.
pub(crate) async fn render_chart(values: &[&str]) -> Result<Vec<Value>> {
    let rendered = run_helm(&[&["template", "podmeta", CHART], values].concat()).await?.stdout;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).context("the chart does not render YAML")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// Runs helm on the cluster. Returns its stdout and stderr.
pub(super) async fn helm(cluster: &TestCluster, arguments: &[&str]) -> Result<String> {
    let kubeconfig = cluster.kubeconfig.to_str().context("the path of the kubeconfig is not text")?;
    let output = run_helm(&[&["--kubeconfig", kubeconfig], arguments].concat()).await?;
    Ok(output.stdout + &output.stderr)
}

/// Output of a command that succeeded.
struct HelmOutput {
    stdout: String,
    /// Contains the logs of hooks.
    stderr: String,
}

async fn run_helm(arguments: &[&str]) -> Result<HelmOutput> {
    let program = tokio::task::spawn_blocking(|| HELM_MODULE.build()).await??.join("helm");
    let mut helm = Command::new(program);
    helm.args(["--namespace", SYSTEM_NAMESPACE]).args(arguments);
    let output = helm.output().await.context("cannot run helm")?;
    let stdout = command_output(&output).with_context(|| format!("helm {}", arguments.join(" ")))?;
    Ok(HelmOutput { stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() })
}
