//! Authorization by the operator: an agent gets the pods of its own node, and every other client gets nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::{Event, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::AuthInfo;
use kube::{Client, ResourceExt as _};
use podmeta_agent_api::calls::{CREDENTIALS, DOCUMENT};
use podmeta_agent_api::{AUDIENCE, WORKLOADS};
use serde_json::{Value, json};

use super::fixtures::{SECRET_ACCESS_KEY, access_key_secret, profile};
use crate::kit::{self, AGENT_ACCOUNT, Podmeta, TestNamespace, client_pod, eventually};

/// The pod that sends requests to the operator, with tokens that the test requested.
pub(super) const ATTACKER: &str = "attacker";
/// The UID of a pod that never existed.
const UNKNOWN_POD: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001";

/// Opens 40 TLS connections to an operator's address and sends nothing. Prints how many succeeded, and after how many
/// seconds the operator had closed all of them.
const OPEN_CONNECTIONS_SCRIPT: &str = r"
import socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
connections, started = [], time.monotonic()
for _ in range(40):
    try:
        connections.append(context.wrap_socket(socket.create_connection((sys.argv[1], 8443), 5)))
    except OSError:
        pass
count = len(connections)
for connection in connections:
    connection.settimeout(60)
    try:
        assert connection.recv(1) == b''
    except ConnectionError:
        pass
print(count, int(time.monotonic() - started))
";

/// Requests a token of a ServiceAccount, bound to a pod if one is given.
pub(super) async fn request_token(
    namespace: &TestNamespace,
    account: &str,
    audience: Option<&str>,
    pod: Option<&Pod>,
) -> Result<String> {
    let bound_object_ref = pod.map(|pod| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    });
    let audiences = audience.map(str::to_owned).into_iter().collect();
    let request = TokenRequest {
        spec: TokenRequestSpec { audiences, bound_object_ref, expiration_seconds: Some(600) },
        ..TokenRequest::default()
    };
    let accounts = namespace.api::<ServiceAccount>();
    let response = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    response.status.map(|status| status.token).context("no token was issued")
}

/// Sends a request to the operator from the attacker's pod. Returns the status code and the body.
pub(super) async fn send(
    namespace: &TestNamespace,
    token: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(String, String)> {
    let url = format!("https://podmeta-operator.podmeta-system.svc:8443{path}");
    let (authorization, content_type) = (format!("Authorization: Bearer {token}"), "Content-Type: application/json");
    let options = ["-gsSk", "--max-time", "10", "-w", "\n%{http_code}", "-H", &authorization, "-H", content_type];
    let command = [&["curl"], &options[..], &["-X", method, "-d", body, &url]].concat();
    let output = namespace.run(ATTACKER, &command).await?;
    let (body, status) = output.rsplit_once('\n').context("curl printed no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

pub(super) async fn agent_pod(podmeta: &Podmeta, node: &str) -> Result<Pod> {
    Ok(podmeta.system.api::<Pod>().get(&podmeta.agent_on(node).await?).await?)
}

#[tokio::test]
async fn agent_token_for_pod_of_another_node_or_deleted_pod_gets_403() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.apply(&access_key_secret()).await?;
        let roles = json!([{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}]);
        namespace.apply(&profile("web", json!({"roles": roles}))).await?;
        let nodes = podmeta.cluster.node_names();
        let [a, b] = nodes else { bail!("this test needs two nodes, the cluster has {}", nodes.len()) };
        namespace.start_client(ATTACKER, json!({})).await?;
        let mut pods = Vec::new();
        for (name, node) in [("on-a", a), ("on-b", b), ("deleted", a)] {
            pods.push(namespace.start(name, &client_pod(name, "web", json!({"nodeName": node}))).await?);
        }
        podmeta.wait_until_programmed(namespace, "web", 3).await?;
        let agent = agent_pod(podmeta, a).await?;
        let token = request_token(&podmeta.system, AGENT_ACCOUNT, Some(AUDIENCE), Some(&agent)).await?;
        let request_for = |pod: &Pod| json!({"pod": pod.uid(), "dialect": "ec2"}).to_string();
        let [on_a, on_b, deleted] = pods.as_slice() else { bail!("this test needs three pods") };

        let (status, body) = send(namespace, &token, "POST", CREDENTIALS, &request_for(on_a)).await?;
        ensure!(status == "200" && body.contains(SECRET_ACCESS_KEY), "pod of the agent's node: {status} {body}");
        let (status, body) = send(namespace, &token, "POST", CREDENTIALS, &request_for(on_b)).await?;
        ensure!(status == "403" && !body.contains(SECRET_ACCESS_KEY), "pod of another node: {status} {body}");
        let unknown = json!({"pod": UNKNOWN_POD, "dialect": "ec2"}).to_string();
        ensure!(send(namespace, &token, "POST", CREDENTIALS, &unknown).await?.0 == "403", "unknown pod");
        namespace.api::<Pod>().delete("deleted", &DeleteParams::default().grace_period(0)).await?;
        eventually(Duration::from_secs(20), "the operator has removed the deleted pod", async || {
            let (status, body) = send(namespace, &token, "POST", CREDENTIALS, &request_for(deleted)).await?;
            ensure!(status == "403", "deleted pod: {status} {body}");
            Ok(())
        })
        .await?;

        let (status, body) = send(namespace, &token, "GET", WORKLOADS, "").await?;
        ensure!(status == "200" && body.contains("on-a") && !body.contains("on-b"), "list of workloads: {status}");
        let link = json!({"ipv4": ["192.0.2.99"], "ipv6": [], "mac": [2, 0, 0, 0, 0, 1]});
        let document = json!({"pod": on_a.uid(), "dialect": "ec2", "link": link}).to_string();
        let (status, _) = send(namespace, &token, "POST", DOCUMENT, &document).await?;
        ensure!(status == "403", "document with addresses of another pod: {status}");

        eventually(Duration::from_secs(40), "the node has a warning event", async || {
            ensure!(send(namespace, &token, "POST", CREDENTIALS, &unknown).await?.0 == "403", "unknown pod");
            let events: Api<Event> = Api::namespaced(podmeta.cluster.client.clone(), "default");
            let params = ListParams::default().fields(&format!("involvedObject.name={a},reason=AgentRefused"));
            ensure!(!events.list(&params).await?.items.is_empty(), "no event AgentRefused on node {a}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn token_without_agent_pod_or_operator_audience_gets_401() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.start_client(ATTACKER, json!({})).await?;
        let node = podmeta.cluster.node_names().first().context("the cluster has no nodes")?;
        let agent = agent_pod(podmeta, node).await?;
        let attacker = namespace.api::<Pod>().get(ATTACKER).await?;
        let system = &podmeta.system;
        for (case, token, expected) in [
            ("agent", request_token(system, AGENT_ACCOUNT, Some(AUDIENCE), Some(&agent)).await?, "200"),
            ("other audience", request_token(system, AGENT_ACCOUNT, Some("vault"), Some(&agent)).await?, "401"),
            ("API server audience", request_token(system, AGENT_ACCOUNT, None, Some(&agent)).await?, "401"),
            ("not bound to a pod", request_token(system, AGENT_ACCOUNT, Some(AUDIENCE), None).await?, "401"),
            ("other account", request_token(namespace, "default", Some(AUDIENCE), Some(&attacker)).await?, "401"),
            ("operator account", request_token(system, "podmeta-operator", Some(AUDIENCE), None).await?, "401"),
            ("empty token", String::new(), "401"),
            ("malformed token", "a.b.c".to_owned(), "401"),
        ] {
            let (status, body) = send(namespace, &token, "GET", WORKLOADS, "").await?;
            ensure!(status == expected, "{case}: expected {expected}, got {status} {body}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn unauthenticated_connections_are_limited_and_closed_while_others_are_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.start_client("idle", json!({})).await?;
        namespace.start_client(ATTACKER, json!({})).await?;
        let (operators, _) = podmeta.wait_until_ready().await?;
        let address = operators.iter().find_map(|pod| pod.status.as_ref()?.pod_ip.clone());
        let address = address.context("the operator pod has no address")?;
        let command = ["python3", "-c", OPEN_CONNECTIONS_SCRIPT, &address];
        let idle = namespace.run("idle", &command);
        let others = async {
            for _ in 0..20 {
                let (status, _) = send(namespace, "a.b.c", "GET", WORKLOADS, "").await?;
                ensure!(status == "401", "another client gets {status}");
            }
            Ok(())
        };
        let (idle, others) = tokio::join!(idle, others);
        others?;
        let printed = idle?;
        let numbers: Vec<u32> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [connections, seconds] = numbers[..] else { bail!("the script printed {printed:?}") };
        ensure!(connections == 32 && (15..40).contains(&seconds), "{connections} connections for {seconds} s");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn agent_service_account_has_no_permissions_of_its_own() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        let rules_of = async |token: String| -> Result<String> {
            let mut config = podmeta.cluster.config();
            config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
            let review = SelfSubjectRulesReview {
                spec: SelfSubjectRulesReviewSpec { namespace: Some(podmeta.system.name.clone()) },
                ..SelfSubjectRulesReview::default()
            };
            let api: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(config)?);
            let status = api.create(&PostParams::default(), &review).await?.status.context("no status")?;
            // The order of rules is not defined.
            let resource = status.resource_rules.iter().map(serde_json::to_string);
            let non_resource = status.non_resource_rules.iter().map(serde_json::to_string);
            let rules: BTreeSet<String> = resource.chain(non_resource).collect::<Result<_, _>>()?;
            Ok(rules.into_iter().collect::<Vec<_>>().join("\n"))
        };
        let agent = rules_of(request_token(&podmeta.system, AGENT_ACCOUNT, None, None).await?).await?;
        let default = rules_of(request_token(namespace, "default", None, None).await?).await?;
        ensure!(agent == default, "rules of the agent: {agent}\nrules of any ServiceAccount: {default}");
        let operator = rules_of(request_token(&podmeta.system, "podmeta-operator", None, None).await?).await?;
        ensure!(operator != default, "the operator has no permissions of its own");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn operator_cannot_create_a_secret_with_a_token_of_a_service_account() -> Result<()> {
    kit::podmeta_test(async |podmeta, _namespace| {
        let mut config = podmeta.cluster.config();
        let token = request_token(&podmeta.system, "podmeta-operator", None, None).await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let secrets: Api<Secret> = Api::namespaced(Client::try_from(config)?, &podmeta.system.name);
        let create = async |secret: Value| {
            let dry_run = PostParams { dry_run: true, ..PostParams::default() };
            secrets.create(&dry_run, &serde_json::from_value(secret)?).await.map_err(anyhow::Error::from)
        };
        let annotations = json!({"kubernetes.io/service-account.name": AGENT_ACCOUNT});
        let stolen = create(json!({
            "metadata": {"name": "stolen-token", "annotations": annotations}, "type": "kubernetes.io/service-account-token",
        }));
        let error = stolen.await.err().context("the token Secret was created")?;
        ensure!(format!("{error:#}").contains("may only create Secrets"), "{error:#}");
        let data = json!({"tls.crt": "", "tls.key": ""});
        let own = json!({"metadata": {"name": "own"}, "type": "kubernetes.io/tls", "data": data});
        create(own).await.context("the operator cannot create its own Secrets")?;
        Ok(())
    })
    .await
}
