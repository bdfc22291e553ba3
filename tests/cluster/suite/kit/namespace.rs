//! A namespace of a test's own: apply, wait, exec, logs.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, AttachParams, DynamicObject, LogParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::conditions::is_pod_running;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(90);
const MANAGER: &str = "podmeta-tests";

/// A namespace.
#[derive(Clone)]
pub(crate) struct Namespace {
    /// The administrator's client.
    pub(crate) client: Client,
    /// Its name.
    pub(crate) name: String,
}

/// What a command in a pod did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether it ended with 0.
    pub(crate) succeeded: bool,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl Namespace {
    /// The objects of a kind in this namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies every document of a manifest, here where they name no namespace.
    pub(crate) async fn apply(&self, manifest: &str) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).context("the manifest is no YAML")?;
        for document in documents {
            let object: DynamicObject = serde_json::from_value(document).context("the manifest is no object")?;
            let types = object.types.clone().context("the manifest has no kind")?;
            let kind = GroupVersionKind::try_from(types)?;
            let (resource, capabilities) = kube::discovery::pinned_kind(&self.client, &kind).await?;
            let name = object.metadata.name.clone().context("the manifest has no name")?;
            let own = object.metadata.namespace.clone().unwrap_or_else(|| self.name.clone());
            let api: Api<DynamicObject> = match capabilities.scope {
                kube::discovery::Scope::Namespaced => Api::namespaced_with(self.client.clone(), &own, &resource),
                kube::discovery::Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            };
            let patch = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await;
            patch.with_context(|| format!("the API server refuses {} {name}", resource.kind))?;
        }
        Ok(())
    }

    /// Starts a pod of the test image that waits to be told what to run, and waits until it does.
    pub(crate) async fn client(&self, name: &str, spec: Value) -> Result<Pod> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "client", "image": podmeta_cluster::images::CLIENT, "imagePullPolicy": "Never",
                    "command": ["sleep", "infinity"],
                }],
            },
        });
        if let (Some(Value::Object(own)), Value::Object(more)) = (pod.get_mut("spec"), spec) {
            own.extend(more);
        }
        self.start(name, &pod).await
    }

    /// Starts a pod and waits until it runs.
    pub(crate) async fn start(&self, name: &str, pod: &Value) -> Result<Pod> {
        self.default_service_account().await?;
        self.apply(&pod.to_string()).await?;
        self.wait::<Pod>(name, "it runs", is_pod_running()).await
    }

    /// Waits until an object is as it shall be.
    pub(crate) async fn wait<K>(&self, name: &str, what: &str, condition: impl Condition<K>) -> Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let waited = tokio::time::timeout(PATIENCE, await_condition(self.api::<K>(), name, condition)).await;
        let found = waited.with_context(|| format!("{kind} {name}: not after {} s: {what}", PATIENCE.as_secs()))??;
        found.with_context(|| format!("{kind} {name} was deleted before {what}"))
    }

    /// Runs a command in a pod's container `client`.
    pub(crate) async fn exec(&self, pod: &str, command: &[&str]) -> Result<Ran> {
        self.exec_in(pod, "client", command).await
    }

    /// Runs a command in a container of a pod.
    pub(crate) async fn exec_in(&self, pod: &str, container: &str, command: &[&str]) -> Result<Ran> {
        let attach = AttachParams::default().container(container).stdout(true).stderr(true);
        let started = self.api::<Pod>().exec(pod, command.iter().copied(), &attach).await;
        let mut process = started.with_context(|| format!("cannot run {command:?} in pod {pod}"))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (process.stdout().context("no output")?, process.stderr().context("no output")?);
        let status = process.take_status().context("no status")?;
        let (read_out, read_err, status) =
            tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr), status);
        read_out.and(read_err).context("cannot read what a command printed")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let status = status.with_context(|| format!("{command:?} in pod {pod} ended without a status"))?;
        let succeeded = status.status.as_deref() == Some("Success");
        let why = status.message.filter(|_| !succeeded).unwrap_or_default();
        Ok(Ran { succeeded, stdout: text(stdout), stderr: text(stderr) + &why })
    }

    /// Runs a command in a pod's container `client` that must succeed, and returns what it printed.
    pub(crate) async fn run(&self, pod: &str, command: &[&str]) -> Result<String> {
        let ran = self.exec(pod, command).await?;
        ensure!(ran.succeeded, "{command:?} failed in pod {pod}: {}{}", ran.stderr, ran.stdout);
        Ok(ran.stdout)
    }

    /// Asks a URL from a pod: the body, or why there is none.
    pub(crate) async fn curl(&self, pod: &str, url: &str) -> Result<String> {
        self.run(pod, &["curl", "-gsSf", "--max-time", "5", url]).await
    }

    /// What a pod's container printed.
    pub(crate) async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        let params = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        Ok(self.api::<Pod>().logs(pod, &params).await?)
    }

    /// What a pod's container has printed once it has printed this.
    pub(crate) async fn log_with(&self, pod: &str, container: &str, expected: &str) -> Result<String> {
        super::within(PATIENCE, "it printed that", async || {
            let logs = self.logs(pod, container).await?;
            ensure!(logs.contains(expected), "{container} of pod {pod} printed no {expected:?}: {logs}");
            Ok(())
        })
        .await?;
        self.logs(pod, container).await
    }

    /// The node that a pod is bound to, once it is.
    pub(crate) async fn node_of(&self, pod: &str) -> Result<String> {
        let bound = |pod: Option<&Pod>| pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
        let pod = self.wait::<Pod>(pod, "it is bound to a node", bound).await?;
        pod.spec.and_then(|spec| spec.node_name).context("it is bound to no node")
    }

    /// Pods are refused until their namespace has its ServiceAccount.
    pub(crate) async fn default_service_account(&self) -> Result<()> {
        self.wait("default", "it is there", |account: Option<&ServiceAccount>| account.is_some()).await.map(drop)
    }
}

/// The addresses of a pod, IPv4 first.
pub(crate) fn addresses(pod: &Pod) -> Result<(String, String)> {
    let all = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref()).context("the pod has no addresses")?;
    match all.as_slice() {
        [ipv4, ipv6] => Ok((ipv4.ip.clone(), ipv6.ip.clone())),
        other => bail!("the pod has not one address of each kind: {other:?}"),
    }
}
