//! Client of the container runtime: finds the pods of the node and their namespaces.
//!
//! Source of messages and paths: runtime/v1/api.proto of kubernetes/cri-api. Only the fields in use are declared.

mod details;
mod messages;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use podmeta_metadata::names::PodUid;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::alias::SandboxId;
pub use details::{NetworkMode, SandboxDetails};
use messages::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxStateValue, PodSandboxStatusRequest,
    PodSandboxStatusResponse,
};

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a response in bytes. A node has some hundred sandboxes.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// A running pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// ID of the sandbox.
    pub id: SandboxId,
    /// UID of the pod. For a static pod, this is the UID in the annotation of its mirror pod.
    pub pod: PodUid,
    /// Namespace and name of the pod.
    pub pod_name: String,
}

/// The pods of a release's node agents.
#[derive(Clone, Debug)]
pub struct AgentPods {
    /// Namespace of the release.
    pub namespace: String,
    /// Name of the release.
    pub release: String,
}

impl AgentPods {
    /// Returns the labels of the sandboxes. The kubelet adds that of the namespace. Source: `pkg/kubelet/types/labels.go` of
    /// kubernetes/kubernetes. The others are those of the chart.
    fn labels(&self) -> HashMap<String, String> {
        let labels = [
            ("io.kubernetes.pod.namespace", self.namespace.as_str()),
            ("app.kubernetes.io/name", "podmeta"),
            ("app.kubernetes.io/instance", self.release.as_str()),
            ("app.kubernetes.io/component", "agent"),
        ];
        labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// A connection to the container runtime. It is opened with the first call, and again after a failure.
#[derive(Debug)]
pub struct RuntimeClient {
    client: Grpc<Channel>,
}

impl RuntimeClient {
    /// Creates a client of the runtime's socket. Must be called in a tokio runtime.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        // The URI is not used: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://runtime").timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }));
        Self { client: Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES) }
    }

    /// Returns the running sandboxes. A sandbox without a valid UID or ID is skipped.
    ///
    /// # Errors
    /// If the runtime does not respond.
    pub async fn running_sandboxes(&mut self) -> Result<Vec<Sandbox>> {
        self.sandboxes_with(HashMap::new()).await
    }

    /// Returns true if a sandbox of the pod is running and its labels are those of a node agent.
    ///
    /// # Errors
    /// If the runtime does not respond.
    pub async fn is_running(&mut self, pod: &PodUid, agents: &AgentPods) -> Result<bool> {
        let sandboxes = self.sandboxes_with(agents.labels()).await?;
        Ok(sandboxes.iter().any(|sandbox| sandbox.pod == *pod))
    }

    /// Returns the running sandboxes that have all of these labels.
    async fn sandboxes_with(&mut self, label_selector: HashMap<String, String>) -> Result<Vec<Sandbox>> {
        let state = Some(PodSandboxStateValue { state: messages::SANDBOX_READY });
        let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { state, label_selector }) };
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/ListPodSandbox");
        let response: ListPodSandboxResponse =
            self.call(path, request).await.context("cannot list the sandboxes of the container runtime")?;
        let sandbox = |sandbox: messages::PodSandbox| {
            let pod = sandbox.metadata?;
            let pod_name = format!("{}/{}", pod.namespace, pod.name);
            let id = SandboxId::try_from(sandbox.id.as_str()).ok()?;
            Some(Sandbox { id, pod: PodUid::try_from(pod.uid).ok()?, pod_name })
        };
        Ok(response.items.into_iter().filter_map(sandbox).collect())
    }

    /// Returns the details of a sandbox.
    ///
    /// # Errors
    /// If the runtime does not respond, or does not report the details.
    pub async fn details(&mut self, sandbox: &SandboxId) -> Result<SandboxDetails> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.as_str().to_owned(), verbose: true };
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/PodSandboxStatus");
        let response: PodSandboxStatusResponse =
            self.call(path, request).await.context("cannot get the status of a sandbox")?;
        SandboxDetails::parse(response)
    }

    async fn call<Q, A>(&mut self, path: PathAndQuery, request: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.client.ready().await.context("cannot connect to the container runtime")?;
        let codec = ProstCodec::default();
        let response = self.client.unary(tonic::Request::new(request), path, codec).await;
        Ok(response.context("the container runtime rejected the call")?.into_inner())
    }
}
