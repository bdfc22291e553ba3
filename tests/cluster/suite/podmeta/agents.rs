//! Who may ask the operator for what: an agent for the pods of its own node, and nobody else for anything.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::AuthInfo;
use kube::{Client, ResourceExt as _};
use podmeta_agent_api::AUDIENCE;
use podmeta_agent_api::calls::CREDENTIALS;
use serde_json::json;

use super::profile;
use super::served::all_ready;
use crate::kit::{self, AGENT, Namespace, Podmeta, within};

/// A token of a ServiceAccount, bound to a pod or to none.
async fn token(namespace: &Namespace, account: &str, audience: Option<&str>, pod: Option<&Pod>) -> Result<String> {
    let bound = pod.map(|pod| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    });
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(str::to_owned).into_iter().collect(),
            bound_object_ref: bound,
            expiration_seconds: Some(600),
        },
        ..TokenRequest::default()
    };
    let accounts = namespace.api::<ServiceAccount>();
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    made.status.map(|status| status.token).context("no token was made")
}

/// What the operator says to a request from a pod with a token: status and body.
async fn ask(namespace: &Namespace, token: &str, method: &str, path: &str, body: &str) -> Result<(String, String)> {
    let url = format!("https://podmeta-operator.podmeta-system.svc:8443{path}");
    let (authorization, kind) = (format!("Authorization: Bearer {token}"), "Content-Type: application/json");
    let command = [
        "curl",
        "-gsSk",
        "--max-time",
        "10",
        "-X",
        method,
        "-H",
        &authorization,
        "-H",
        kind,
        "-d",
        body,
        "-w",
        "\n%{http_code}",
        &url,
    ];
    let printed = namespace.run("thief", &command).await?;
    let (body, status) = printed.rsplit_once('\n').context("curl printed no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

/// Opens 40 connections to an operator's address and shows no token on any: prints how many there were after the
/// handshakes, and after how many seconds the last of them was closed.
const HOARD: &str = r"
import socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
held, began = [], time.monotonic()
for _ in range(40):
    try:
        held.append(context.wrap_socket(socket.create_connection((sys.argv[1], 8443), 5)))
    except OSError:
        pass
there = len(held)
for one in held:
    one.settimeout(60)
    try:
        assert one.recv(1) == b''
    except ConnectionError:
        pass
print(there, int(time.monotonic() - began))
";

async fn agent_pod(podmeta: &Podmeta, node: &str) -> Result<Pod> {
    Ok(podmeta.system.api::<Pod>().get(&podmeta.agent_on(node).await?).await?)
}

#[tokio::test]
async fn a_stolen_agent_token_gets_nothing_of_another_node_or_of_a_pod_that_is_gone() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let keys = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
            "stringData": {"accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": "hunter2"},
        });
        namespace.apply(&keys.to_string()).await?;
        let roles = json!([{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}]);
        namespace.apply(&profile("mine", json!({"roles": roles}))).await?;
        let nodes = podmeta.cluster.nodes();
        let [a, b] = nodes else { anyhow::bail!("this test needs two nodes, not {}", nodes.len()) };
        namespace.client("thief", json!({})).await?;
        let mut pods = Vec::new();
        for (name, node) in [("on-a", a), ("on-b", b), ("moved", a)] {
            let labelled = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "mine"}},
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "client", "image": podmeta_cluster::images::CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
                }]},
            });
            pods.push(namespace.start(name, &labelled).await?);
        }
        podmeta.status(namespace, "mine", "all three are programmed", |said| said.programmed_pods == Some(3)).await?;
        let stolen = token(&podmeta.system, AGENT, Some(AUDIENCE), Some(&agent_pod(podmeta, a).await?)).await?;
        let wants = |pod: &Pod| json!({"pod": pod.uid(), "dialect": "ec2"}).to_string();
        let [on_a, on_b, moved] = pods.as_slice() else { anyhow::bail!("three pods were made") };
        let (status, body) = ask(namespace, &stolen, "POST", CREDENTIALS, &wants(on_a)).await?;
        ensure!(status == "200" && body.contains("hunter2"), "its own pod's: {status} {body}");
        let (status, body) = ask(namespace, &stolen, "POST", CREDENTIALS, &wants(on_b)).await?;
        ensure!(status == "403" && !body.contains("hunter2"), "another node's: {status} {body}");
        let nobody = json!({"pod": "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001", "dialect": "ec2"}).to_string();
        ensure!(ask(namespace, &stolen, "POST", CREDENTIALS, &nobody).await?.0 == "403", "a pod that never was");
        // A pod of the same name on another node is another pod; the old one is gone.
        namespace.api::<Pod>().delete("moved", &DeleteParams::default().grace_period(0)).await?;
        within(Duration::from_secs(20), "the pod is gone", async || {
            let (status, body) = ask(namespace, &stolen, "POST", CREDENTIALS, &wants(moved)).await?;
            ensure!(status == "403", "a deleted pod's: {status} {body}");
            Ok(())
        })
        .await?;
        let (status, body) = ask(namespace, &stolen, "GET", podmeta_agent_api::WORKLOADS, "").await?;
        ensure!(status == "200" && body.contains("on-a") && !body.contains("on-b"), "the list of its node: {status}");
        let link = json!({"ipv4": ["192.0.2.99"], "ipv6": [], "mac": [2, 0, 0, 0, 0, 1]});
        let document = json!({"pod": on_a.uid(), "dialect": "ec2", "link": link}).to_string();
        ensure!(ask(namespace, &stolen, "POST", podmeta_agent_api::calls::DOCUMENT, &document).await?.0 == "403", "foreign addresses");
        within(Duration::from_secs(40), "there is an event on the node", async || {
            ensure!(ask(namespace, &stolen, "POST", CREDENTIALS, &nobody).await?.0 == "403", "a pod that never was");
            let events: Api<Event> = Api::namespaced(podmeta.cluster.client.clone(), "default");
            let params = ListParams::default().fields(&format!("involvedObject.name={a},reason=AgentRefused"));
            ensure!(!events.list(&params).await?.items.is_empty(), "no event AgentRefused of {a}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn only_a_live_agent_s_token_for_the_operator_is_one() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.client("thief", json!({})).await?;
        let node = podmeta.cluster.nodes().first().context("there is no node")?;
        let agent = agent_pod(podmeta, node).await?;
        let thief = namespace.api::<Pod>().get("thief").await?;
        for (what, token, expected) in [
            ("an agent's", token(&podmeta.system, AGENT, Some(AUDIENCE), Some(&agent)).await?, "200"),
            ("one for another audience", token(&podmeta.system, AGENT, Some("vault"), Some(&agent)).await?, "401"),
            ("one for the API server", token(&podmeta.system, AGENT, None, Some(&agent)).await?, "401"),
            ("one of no pod", token(&podmeta.system, AGENT, Some(AUDIENCE), None).await?, "401"),
            ("another account's", token(namespace, "default", Some(AUDIENCE), Some(&thief)).await?, "401"),
            ("the operator's", token(&podmeta.system, "podmeta-operator", Some(AUDIENCE), None).await?, "401"),
            ("none", String::new(), "401"),
            ("nonsense", "a.b.c".to_owned(), "401"),
        ] {
            let (status, body) = ask(namespace, &token, "GET", podmeta_agent_api::WORKLOADS, "").await?;
            ensure!(status == expected, "{what}: {status} {body}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_shows_no_token_has_few_connections_and_not_for_long_and_others_are_served_meanwhile() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.client("hoarder", json!({})).await?;
        namespace.client("thief", json!({})).await?;
        let (operators, _) = all_ready(podmeta).await?;
        let address = operators.iter().find_map(|pod| pod.status.as_ref()?.pod_ip.clone());
        let address = address.context("it has no address")?;
        let command = ["python3", "-c", HOARD, &address];
        let hoard = namespace.run("hoarder", &command);
        let others = async {
            for _ in 0..20 {
                let (status, _) = ask(namespace, "a.b.c", "GET", podmeta_agent_api::WORKLOADS, "").await?;
                ensure!(status == "401", "somebody else is answered {status}");
            }
            Ok(())
        };
        let (hoarded, others) = tokio::join!(hoard, others);
        others?;
        let hoarded = hoarded?;
        let numbers: Vec<u32> = hoarded.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [there, seconds] = numbers[..] else { anyhow::bail!("it printed {hoarded:?}") };
        ensure!(there == 32 && (15..40).contains(&seconds), "{there} connections for {seconds} s");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_agent_s_account_may_do_nothing_that_others_may_not() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.default_service_account().await?;
        let rules = async |token: String| -> Result<String> {
            let mut config = podmeta.cluster.config();
            config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
            let review = SelfSubjectRulesReview {
                spec: SelfSubjectRulesReviewSpec { namespace: Some(podmeta.system.name.clone()) },
                ..SelfSubjectRulesReview::default()
            };
            let api: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(config)?);
            let status = api.create(&PostParams::default(), &review).await?.status.context("no status")?;
            // In which order is all the same.
            let resources = status.resource_rules.iter().map(serde_json::to_string);
            let others = status.non_resource_rules.iter().map(serde_json::to_string);
            let rules: BTreeSet<String> = resources.chain(others).collect::<Result<_, _>>()?;
            Ok(rules.into_iter().collect::<Vec<_>>().join("\n"))
        };
        let agent = rules(token(&podmeta.system, AGENT, None, None).await?).await?;
        let anybody = rules(token(namespace, "default", None, None).await?).await?;
        ensure!(agent == anybody, "the agents may {agent}; anybody may {anybody}");
        let operator = rules(token(&podmeta.system, "podmeta-operator", None, None).await?).await?;
        ensure!(operator != anybody, "the operator may nothing of its own");
        Ok(())
    })
    .await
}
