//! The namespace of a test: apply manifests, start pods, wait for conditions.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::discovery::Scope;
use kube::runtime::conditions::is_pod_running;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client_pod;

/// Timeout of one wait for a condition.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
const FIELD_MANAGER: &str = "podmeta-tests";

/// A namespace that a test works in.
#[derive(Clone)]
pub(crate) struct TestNamespace {
    /// A client with the administrator's rights.
    pub(crate) client: Client,
    /// The namespace's name.
    pub(crate) name: String,
}

impl TestNamespace {
    /// Returns the API for objects of one kind in this namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies every document of a manifest. Objects without a namespace go into this one.
    pub(crate) async fn apply(&self, manifest: &str) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).context("the manifest is not valid YAML")?;
        for document in documents {
            let object: DynamicObject = serde_json::from_value(document).context("the manifest is not an object")?;
            let types = object.types.clone().context("the manifest has no kind")?;
            let kind = GroupVersionKind::try_from(types)?;
            let (resource, capabilities) = kube::discovery::pinned_kind(&self.client, &kind).await?;
            let name = object.metadata.name.clone().context("the manifest has no name")?;
            let namespace = object.metadata.namespace.clone().unwrap_or_else(|| self.name.clone());
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Namespaced => Api::namespaced_with(self.client.clone(), &namespace, &resource),
                Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            };
            let patch = api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await;
            patch.with_context(|| format!("the API server rejects {} {name}", resource.kind))?;
        }
        Ok(())
    }

    /// Starts a pod of the client image and waits until it runs. Its label `app` is its name.
    pub(crate) async fn start_client(&self, name: &str, spec: Value) -> Result<Pod> {
        self.start(name, &client_pod(name, name, spec)).await
    }

    /// Starts a pod and waits until it runs.
    pub(crate) async fn start(&self, name: &str, pod: &Value) -> Result<Pod> {
        self.wait_for_service_account().await?;
        self.apply(&pod.to_string()).await?;
        self.wait_for::<Pod>(name, "the pod runs", is_pod_running()).await
    }

    /// Waits until an object meets a condition, and returns it.
    pub(crate) async fn wait_for<K>(&self, name: &str, expectation: &str, condition: impl Condition<K>) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let timeout = WAIT_TIMEOUT.as_secs();
        let waited = tokio::time::timeout(WAIT_TIMEOUT, await_condition(self.api::<K>(), name, condition)).await;
        let object = waited.with_context(|| format!("{kind} {name}: timeout after {timeout} s: {expectation}"))??;
        object.with_context(|| format!("{kind} {name} was deleted before {expectation}"))
    }

    /// Waits until a pod is bound to a node, and returns the node's name.
    pub(crate) async fn node_of(&self, pod: &str) -> Result<String> {
        let is_bound = |pod: Option<&Pod>| pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
        let pod = self.wait_for::<Pod>(pod, "the pod is bound to a node", is_bound).await?;
        pod.spec.and_then(|spec| spec.node_name).context("the pod is not bound to a node")
    }

    /// Waits for the default ServiceAccount. The API server rejects pods without it.
    pub(crate) async fn wait_for_service_account(&self) -> Result<()> {
        let exists = |account: Option<&ServiceAccount>| account.is_some();
        self.wait_for("default", "the ServiceAccount exists", exists).await.map(drop)
    }
}
