//! The stub of the clouds' STS in a pod.

use anyhow::{Context as _, Result};
use podmeta_cluster::images::{CLIENT, MOTO_DIR};
use podmeta_cluster::layout::url_host;
use serde::Deserialize;
use serde_json::json;

use super::with_values;
use crate::kit::{Podmeta, TestNamespace, client_pod};

const STUB_STS: &str = include_str!("../scripts/stub_sts.py");

/// The pod of the stub.
const STUB_POD: &str = "stub-sts";

/// A call that the stub received.
#[derive(Debug, Deserialize)]
pub(super) struct StubCall {
    /// The name of the role.
    pub(super) role: String,
    /// The session name.
    pub(super) session: String,
}

/// The stub. Its roles trust the ServiceAccount `default` of the test namespace.
pub(super) struct StubStsPod<'t> {
    namespace: &'t TestNamespace,
    /// The URL.
    pub(super) url: String,
}

impl StubStsPod<'_> {
    /// Returns the calls so far.
    pub(super) async fn calls(&self) -> Result<Vec<StubCall>> {
        let printed = self.namespace.curl(STUB_POD, "http://localhost:8080/calls").await?;
        serde_json::from_str(&printed).with_context(|| printed)
    }
}

/// Runs `body` while the operator calls a new stub instead of the clouds.
pub(super) async fn with_stub_sts(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    body: impl AsyncFnOnce(&StubStsPod<'_>) -> Result<()>,
) -> Result<()> {
    let subject = format!("system:serviceaccount:{}:default", namespace.name);
    let container = json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["python3", "-c", STUB_STS, subject],
        "env": [{"name": "PYTHONPATH", "value": MOTO_DIR}],
    });
    let pod = client_pod(STUB_POD, STUB_POD, json!({"containers": [container]}));
    let pod = namespace.start(STUB_POD, &pod).await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the pod has no address")?;
    namespace.wait_for_log(STUB_POD, "client", "listening").await?;
    let stub = StubStsPod { namespace, url: format!("http://{}:8080", url_host(&address)) };
    let endpoints = ["aws", "aliyun"].map(|cloud| format!("credentials.{cloud}.stsEndpoint={}", stub.url));
    with_values(podmeta, &endpoints.each_ref().map(String::as_str), async || body(&stub).await).await
}
