//! A fake container runtime, which serves the calls of the CRI that the daemon uses. Source of the messages:
//! runtime/v1/api.proto of kubernetes/cri-api.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::UnixListener;

/// A sandbox of the runtime.
#[derive(Clone)]
pub(crate) struct FakeSandbox {
    /// Number in ID and name.
    pub(crate) n: usize,
    pub(crate) uid: String,
    pub(crate) labels: HashMap<String, String>,
    /// Path of its network namespace, or `None` for the host's.
    pub(crate) netns: Option<PathBuf>,
    /// Ranges of its user namespace: first ID on the host, first ID in the pod, length. `None` if it has the host's.
    pub(crate) users: Option<Vec<(u32, u32, u32)>>,
}

impl FakeSandbox {
    /// Returns the sandbox of pod `n` on the host network, without labels.
    pub(crate) fn host(n: usize) -> Self {
        Self { n, uid: format!("uid-{n}"), labels: HashMap::new(), netns: None, users: None }
    }
}

/// State that tests change and read.
#[derive(Default)]
pub(crate) struct FakeRuntime {
    pub(crate) sandboxes: Vec<FakeSandbox>,
    /// PodSandboxStatus calls by sandbox ID.
    pub(crate) status_calls: HashMap<String, usize>,
    /// Calls that list the sandboxes.
    pub(crate) list_calls: usize,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<PodSandboxFilter>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxFilter {
    #[prost(map = "string, string", tag = "3")]
    label_selector: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(message, optional, tag = "6")]
    linux: Option<LinuxPodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxStatus {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<NamespaceStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceStatus {
    #[prost(message, optional, tag = "2")]
    options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(message, optional, tag = "5")]
    user_namespace: Option<UserNamespace>,
}

#[derive(Clone, PartialEq, Message)]
struct UserNamespace {
    #[prost(int32, tag = "1")]
    mode: i32,
    #[prost(message, repeated, tag = "2")]
    uids: Vec<IdMapping>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct IdMapping {
    #[prost(uint32, tag = "1")]
    host_id: u32,
    #[prost(uint32, tag = "2")]
    container_id: u32,
    #[prost(uint32, tag = "3")]
    length: u32,
}

impl FakeSandbox {
    fn metadata(&self) -> PodSandboxMetadata {
        PodSandboxMetadata { name: format!("pod{}", self.n), uid: self.uid.clone(), namespace: "shop".to_owned() }
    }

    /// Returns the user namespace as the runtime reports it. Mode 0 is that of the pod, 2 that of the node.
    fn user_namespace(&self) -> UserNamespace {
        let mapping = |&(host_id, container_id, length)| IdMapping { host_id, container_id, length };
        match &self.users {
            Some(ranges) => UserNamespace { mode: 0, uids: ranges.iter().map(mapping).collect() },
            None => UserNamespace { mode: 2, uids: Vec::new() },
        }
    }
}

impl FakeRuntime {
    /// Serves a socket in a thread of its own until the process ends.
    pub(crate) fn serve(self, socket: &Path) -> Arc<Mutex<Self>> {
        let state = Arc::new(Mutex::new(self));
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
                    let state = Arc::clone(&served);
                    tokio::spawn(async move {
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(respond_to(request, respond, Arc::clone(&state)));
                        }
                    });
                }
            });
        });
        state
    }

    /// Returns the sandboxes that have all labels of the request.
    fn list(&mut self, request: &[u8]) -> Vec<u8> {
        self.list_calls += 1;
        let wanted = ListPodSandboxRequest::decode(request).unwrap().filter.unwrap_or_default().label_selector;
        let is_wanted =
            |sandbox: &&FakeSandbox| wanted.iter().all(|(name, value)| sandbox.labels.get(name) == Some(value));
        let item = |sandbox: &FakeSandbox| PodSandbox {
            id: format!("sandbox{}", sandbox.n),
            metadata: Some(sandbox.metadata()),
        };
        ListPodSandboxResponse { items: self.sandboxes.iter().filter(is_wanted).map(item).collect() }.encode_to_vec()
    }

    fn status(&mut self, request: &[u8]) -> Vec<u8> {
        let id = PodSandboxStatusRequest::decode(request).unwrap().id;
        let sandbox = self.sandboxes.iter().find(|sandbox| format!("sandbox{}", sandbox.n) == id).unwrap();
        let path = sandbox.netns.as_deref().unwrap_or(Path::new("")).display();
        let info = format!(r#"{{"runtimeSpec":{{"linux":{{"namespaces":[{{"type":"network","path":"{path}"}}]}}}}}}"#);
        let options = NamespaceOption {
            network: if sandbox.netns.is_some() { 0 } else { 2 },
            user_namespace: Some(sandbox.user_namespace()),
        };
        let linux = LinuxPodSandboxStatus { namespaces: Some(NamespaceStatus { options: Some(options) }) };
        let status = PodSandboxStatus { metadata: Some(sandbox.metadata()), linux: Some(linux) };
        *self.status_calls.entry(id).or_default() += 1;
        PodSandboxStatusResponse { status: Some(status), info: HashMap::from([("info".to_owned(), info)]) }
            .encode_to_vec()
    }
}

/// Responds to one call. A message of gRPC has a prefix of five bytes: no compression, and the length.
async fn respond_to(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<Mutex<FakeRuntime>>) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        message.extend(data);
    }
    let message = match head.uri.path() {
        "/runtime.v1.RuntimeService/ListPodSandbox" => state.lock().unwrap().list(&message[5..]),
        "/runtime.v1.RuntimeService/PodSandboxStatus" => state.lock().unwrap().status(&message[5..]),
        path => panic!("unexpected call {path}"),
    };
    let mut response = vec![0];
    response.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    response.extend(message);
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    stream.send_data(response.into(), false).unwrap();
    stream
        .send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]))
        .unwrap();
}
