//! Dry runs of requests to the API server, and the objects of these requests.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use podmeta_cluster::images::CLIENT;
use serde_json::{Value, json};

use crate::kit::{TestNamespace, client_pod, eventually, with_spec};

/// The expected result of a request: `Err` has a part of the error message.
type Expected<'e> = Result<(), &'e str>;

/// Dry runs of requests for objects of one kind.
pub(super) struct Requests {
    objects: Api<DynamicObject>,
}

impl Requests {
    /// Creates requests with the client of the namespace. Waits until pods can be created there.
    pub(super) async fn new<K>(namespace: &TestNamespace) -> Result<Self>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        namespace.wait_for_service_account().await?;
        let kind = ApiResource::erase::<K>(&());
        Ok(Self { objects: Api::namespaced_with(namespace.client.clone(), &namespace.name, &kind) })
    }

    /// Creates requests for pods with the client of the namespace. Does not wait, because this client may not read
    /// ServiceAccounts.
    pub(super) fn of_pods(namespace: &TestNamespace) -> Self {
        let kind = ApiResource::erase::<Pod>(&());
        Self { objects: Api::namespaced_with(namespace.client.clone(), &namespace.name, &kind) }
    }

    /// Waits until a policy rejects an object: the API server enforces a new policy after about a second.
    pub(super) async fn wait_until_rejected(&self, object: &Value) -> Result<()> {
        let rejected = async || self.create(object, Err("ValidatingAdmissionPolicy 'podmeta-")).await;
        eventually(Duration::from_secs(20), "the policy is enforced", rejected).await
    }

    /// Creates an object as a dry run.
    pub(super) async fn create(&self, object: &Value, expected: Expected<'_>) -> Result<()> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let parsed = serde_json::from_value(object.clone()).context("the test's object is invalid")?;
        check(&object.to_string(), self.objects.create(&params, &parsed).await, expected)
    }

    /// Changes an object or a subresource as a dry run.
    pub(super) async fn patch(
        &self,
        name: &str,
        subresource: Option<&str>,
        change: &Value,
        expected: Expected<'_>,
    ) -> Result<()> {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let patch = Patch::Strategic(change);
        let patched = match subresource {
            Some(subresource) => self.objects.patch_subresource(subresource, name, &params, &patch).await,
            None => self.objects.patch(name, &params, &patch).await,
        };
        check(&format!("{name} {subresource:?} {change}"), patched, expected)
    }
}

fn check(request: &str, result: kube::Result<DynamicObject>, expected: Expected<'_>) -> Result<()> {
    match (result, expected) {
        (Ok(_), Ok(())) => Ok(()),
        (Ok(_), Err(_)) => bail!("the API server accepts {request}"),
        (Err(error), Ok(())) => Err(error).with_context(|| format!("the API server rejects {request}")),
        (Err(error), Err(message)) => {
            let is_rejection = matches!(&error, kube::Error::Api(status) if matches!(status.code, 403 | 422));
            ensure!(is_rejection && error.to_string().contains(message), "{request}: {error}, expected: {message}");
            Ok(())
        }
    }
}

/// Returns a pod `web` with these fields in the container `client`, or in an init container `sidecar`.
pub(super) fn pod(list: &str, fields: &Value) -> Value {
    let name = if list == "containers" { "client" } else { "sidecar" };
    let mut container = json!({"name": name, "image": CLIENT});
    if let (Value::Object(container), Value::Object(fields)) = (&mut container, fields) {
        container.extend(fields.clone());
    }
    client_pod("web", "web", json!({list: [container]}))
}

/// Returns a Service with port 80. Fields of `spec` replace those of the Service.
pub(super) fn service(name: &str, spec: Value) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]},
    });
    with_spec(service, spec)
}

/// Returns an EndpointSlice with one endpoint.
pub(super) fn endpoint_slice(name: &str, family: &str, addresses: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name},
        "addressType": family, "ports": [{"port": 80}], "endpoints": [{"addresses": addresses}],
    })
}

/// Returns Endpoints with one address in the list `addresses` or `notReadyAddresses`.
pub(super) fn endpoints(name: &str, list: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name},
        "subsets": [{list: [{"ip": address}], "ports": [{"port": 80}]}],
    })
}
