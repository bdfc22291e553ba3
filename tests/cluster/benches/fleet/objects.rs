//! The objects of the benchmark: CRDs, namespaces, nodes, pods, tokens and one profile.

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{conditions, wait::await_condition};
use podmeta_agent_api::AUDIENCE;
use podmeta_crds::metadataprofile::MetadataProfile;
use serde_json::json;

use super::{FleetBench, MAX_CONCURRENT_REQUESTS, PODS_PER_NODE, SYSTEM_NAMESPACE};

/// Namespace of the pods.
const POD_NAMESPACE: &str = "shop";

impl FleetBench {
    /// Creates the CRDs, namespaces, ServiceAccounts and the profile.
    pub(super) async fn prepare(&self) -> Result<()> {
        let apply = PatchParams::apply("fleet").force();
        for generated in podmeta_crds::crd::generate()? {
            let resource = ApiResource::erase::<CustomResourceDefinition>(&());
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let definition = generated.definition;
            let name = definition.name_any();
            api.patch(&name, &apply, &Patch::Apply(&definition)).await?;
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            await_condition(definitions, &name, conditions::is_crd_established()).await?;
        }
        for (namespace, account) in [(SYSTEM_NAMESPACE, "podmeta-agent"), (POD_NAMESPACE, "default")] {
            let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            accept_existing(
                namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await,
            )?;
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
            let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
            accept_existing(
                accounts
                    .create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() })
                    .await,
            )?;
        }
        self.edit_profile(0).await.map(drop)
    }

    /// Creates pods and their nodes until `pods` pods exist.
    pub(super) async fn grow(&self, existing: usize, pods: usize) -> Result<()> {
        let (params, api): (PostParams, Api<Pod>) =
            (PostParams::default(), Api::namespaced(self.client.clone(), POD_NAMESPACE));
        let nodes: Api<Node> = Api::all(self.client.clone());
        let agents: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let create_node = async |number: usize| -> Result<()> {
            let labels =
                json!({"topology.kubernetes.io/region": "eu-west-1", "topology.kubernetes.io/zone": "eu-west-1a"});
            let node = json!({"metadata": {"name": format!("fleet-{number}"), "labels": labels}});
            accept_existing(nodes.create(&params, &serde_json::from_value(node)?).await)?;
            accept_existing(agents.create(&params, &pod(&format!("agent-{number}"), number, "podmeta-agent")?).await)
        };
        let create_pod = async |number: usize| -> Result<()> {
            accept_existing(
                api.create(&params, &pod(&format!("pod-{number}"), number / PODS_PER_NODE, "default")?).await,
            )
        };
        let (first, last) = (existing.div_ceil(PODS_PER_NODE), pods.div_ceil(PODS_PER_NODE));
        stream::iter((first..last).map(create_node))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .try_collect::<()>()
            .await?;
        stream::iter((existing..pods).map(create_pod))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .try_collect::<()>()
            .await
    }

    /// Requests the token of a node's agent, as the kubelet does. Returns it with the node's number.
    pub(super) async fn token(&self, node: usize) -> Result<(usize, String)> {
        let name = format!("agent-{node}");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let bound_object_ref = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            uid: pods.get(&name).await?.uid(),
            name: Some(name),
        };
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            bound_object_ref: Some(bound_object_ref),
            expiration_seconds: Some(3600),
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let response = accounts.create_token_request("podmeta-agent", &PostParams::default(), &request).await?;
        Ok((node, response.status.context("no token was issued")?.token))
    }

    /// Edits the profile that selects all pods, and returns its generation.
    pub(super) async fn edit_profile(&self, number: usize) -> Result<u64> {
        let profile = json!({
            "apiVersion": podmeta_crds::crd::API_VERSION, "kind": "MetadataProfile", "metadata": {"name": "all", "namespace": POD_NAMESPACE},
            "spec": {
                "dialects": ["ec2", "ecs"],
                "tags": {"labels": ["app"]},
                "metadata": [
                    {"dialect": "ec2", "path": "edit", "value": number.to_string()},
                    {"dialect": "ec2", "path": "team", "expression": "pod.metadata.labels['app'] + '-' + pod.metadata.namespace"},
                ],
            },
        });
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), POD_NAMESPACE);
        let edited = profiles.patch("all", &PatchParams::apply("fleet").force(), &Patch::Apply(&profile)).await?;
        Ok(u64::try_from(edited.metadata.generation.unwrap_or_default())?)
    }

    pub(super) async fn generation(&self) -> Result<u64> {
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), POD_NAMESPACE);
        Ok(u64::try_from(profiles.get("all").await?.metadata.generation.unwrap_or_default())?)
    }

    /// Returns the number of requests that the API server has handled, including a few dozen of this program.
    pub(super) async fn api_requests(&self) -> Result<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await?;
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64)
    }
}

fn pod(name: &str, node: usize, account: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": format!("app-{}", node % 50), "team": "shop"}},
        "spec": {
            "nodeName": format!("fleet-{node}"), "serviceAccountName": account,
            "containers": [{"name": "app", "image": "registry.example/app:1.0", "resources": {"requests": {"cpu": "10m"}}}],
        },
    }))?)
}

/// Returns success also if the object of a create request exists.
fn accept_existing<T>(result: Result<T, kube::Error>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
