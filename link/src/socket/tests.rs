use std::os::unix::fs::PermissionsExt as _;

use podmeta_metadata::node_finding::NodeFindingKind;

use super::*;
use crate::protocol::SocketQuery;
use crate::sys::receive_line;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn socket_and_its_directory_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("link/link.sock");
    let first = bind(&path).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    drop(first);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let _second = bind(&path).unwrap();
    assert_eq!(mode(&path), 0o600, "a socket that was left behind is replaced");
}

fn agent() -> PodUid {
    PodUid::try_from("agent-1").unwrap()
}

/// Returns a server that does not redirect pods on the host network, and knows the agent.
fn server(findings: Arc<SharedFindings>) -> Arc<CallServer> {
    let config = LinkSocketConfig {
        path: "/none".into(),
        agent_namespace: "/proc/self/ns/net".into(),
        runtime_socket: "/none".into(),
        agent_pods: AgentPods { namespace: "none".to_owned(), release: "none".to_owned() },
        counters: Arc::default(),
        findings: Arc::clone(&findings),
        checks: Arc::default(),
        host_pods: None,
        node_pods: Arc::default(),
    };
    let (agents, owners) = (KnownAgents::default(), OwnerFinder::new("/none".into(), findings));
    agents.add(agent());
    Arc::new(CallServer { config, agents, owners })
}

/// Serves one call of a node agent. Returns the response.
async fn response_to(call: &Call, findings: Arc<SharedFindings>) -> CallResponse {
    let (client, daemon) = UnixStream::pair().unwrap();
    send_line(&client, &serde_json::to_string(call).unwrap(), &[]).unwrap();
    server(findings).authorize_and_respond(Ok(agent()), &Arc::new(daemon)).await.unwrap();
    serde_json::from_str(&receive_line(&client).unwrap().0).unwrap()
}

/// Without the redirection, the pods would be exempt from the uplink guard.
#[tokio::test]
async fn pods_are_not_exempt_if_pods_on_the_host_network_are_not_redirected() {
    let server = server(Arc::default());
    let (client, daemon) = UnixStream::pair().unwrap();
    let call = Call::NodePods([PodUid::try_from("uid-1").unwrap()].into());
    send_line(&client, &serde_json::to_string(&call).unwrap(), &[]).unwrap();
    let error = server.authorize_and_respond(Ok(agent()), &Arc::new(daemon)).await.unwrap_err();
    assert!(error.to_string().contains("the redirection of pods on the host network is off"), "{error:#}");
    assert_eq!(server.config.node_pods.get(), None);
}

#[tokio::test]
async fn failed_lookup_is_a_response() {
    let call = Call::WhoIs(SocketQuery {
        pod: "uid-1".try_into().unwrap(),
        sandbox: "s1".try_into().unwrap(),
        client: "169.254.240.2:4000".parse().unwrap(),
        service: "169.254.169.254:80".parse().unwrap(),
    });
    let response = response_to(&call, Arc::default()).await;
    let message = "cannot get the status of a sandbox";
    assert!(matches!(&response, CallResponse::Failed(text) if text.contains(message)), "{response:?}");
}

#[tokio::test]
async fn status_has_no_finding_about_user_ids_that_are_known_again() {
    let findings = Arc::<SharedFindings>::default();
    findings.set(NodeFindingKind::UserIds, Some("a pod of before".to_owned()));
    findings.set(NodeFindingKind::Guards, Some("a guard".to_owned()));
    let CallResponse::Status(status) = response_to(&Call::Status, findings).await else { panic!("no status") };
    assert_eq!(status.findings.keys().copied().collect::<Vec<_>>(), [NodeFindingKind::Guards]);
}
