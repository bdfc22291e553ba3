//! Mirror pods: a stolen kubelet credential must not get data of other namespaces.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use podmeta_agent_api::calls::{CREDENTIALS, DOCUMENT, USER_DATA};
use podmeta_agent_api::{AUDIENCE, WORKLOADS, WorkloadList};
use podmeta_metadata::compile::Outcome;
use serde_json::{Value, json};

use super::agent_authorization::{ATTACKER, agent_pod, request_token, send};
use super::fixtures::{SECRET_ACCESS_KEY, access_key_secret, check_credentials, profile};
use crate::kit::{self, Podmeta, TestNamespace, client_pod, eventually};

/// The UID of a static pod that does not run.
pub(super) const STATIC_UID: &str = "0b1d6f0a52c44a308f2e5d9a3c7e1001";

/// Returns a pod as a kubelet creates it for a static pod. Its labels match the profile `web`. The finalizer keeps the object:
/// the kubelet of the node deletes mirror pods of static pods that it does not run.
pub(super) fn mirror_pod(name: &str, node: &Node, claimed_uid: &str) -> Value {
    let mut pod = client_pod(name, "web", json!({"nodeName": node.name_any()}));
    let owner =
        json!({"apiVersion": "v1", "kind": "Node", "name": node.name_any(), "uid": node.uid(), "controller": true});
    let metadata = json!({
        "name": name,
        "labels": {"app": "web"},
        "annotations": {"kubernetes.io/config.mirror": claimed_uid},
        "ownerReferences": [owner],
        "finalizers": ["podmeta.test/keep"],
    });
    if let Value::Object(fields) = &mut pod {
        fields.insert("metadata".to_owned(), metadata);
    }
    pod
}

/// The credentials of one node: of its kubelet and its agent.
pub(super) struct StolenNode<'t> {
    pub(super) podmeta: &'t Podmeta,
    pub(super) namespace: &'t TestNamespace,
    pub(super) node: Node,
    /// The pods API with the kubelet's credential.
    pub(super) pods: Api<Pod>,
    /// The token of the node's agent.
    pub(super) token: String,
}

impl StolenNode<'_> {
    /// Requests credentials, a document and user data for a UID. Each must be rejected.
    async fn check_rejected(&self, uid: &str) -> Result<()> {
        let link = json!({"ipv4": [], "ipv6": [], "mac": [2, 0, 0, 0, 0, 1]});
        for (path, request) in [
            (CREDENTIALS, json!({"pod": uid, "dialect": "ec2"})),
            (DOCUMENT, json!({"pod": uid, "dialect": "ec2", "link": link})),
            (USER_DATA, json!({"pod": uid, "key": {"name": "keys", "key": "secretAccessKey"}})),
        ] {
            let (status, body) = send(self.namespace, &self.token, "POST", path, &request.to_string()).await?;
            ensure!(status == "403" && !body.contains(SECRET_ACCESS_KEY), "{path} of {uid}: {status} {body}");
        }
        Ok(())
    }

    /// Returns the pod with a UID, as the operator sends it to the agent.
    pub(super) async fn sent(&self, uid: &str) -> Result<Option<Outcome>> {
        let (status, body) = send(self.namespace, &self.token, "GET", WORKLOADS, "").await?;
        ensure!(status == "200" && !body.contains(SECRET_ACCESS_KEY), "list of workloads: {status}");
        let list: WorkloadList = serde_json::from_str(&body)?;
        let outcomes = list.items.into_iter().map(|item| item.outcome);
        Ok(outcomes.into_iter().find(|outcome| outcome.pod().uid.as_str() == uid))
    }

    async fn attack(&self) -> Result<()> {
        let create = async |pod: Value| {
            self.pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await.map_err(anyhow::Error::from)
        };
        let plain = client_pod("plain", "web", json!({"nodeName": self.node.name_any()}));
        ensure!(create(plain).await.is_err(), "the kubelet can create pods that are not mirror pods");
        let mirror =
            create(mirror_pod("mirror", &self.node, STATIC_UID)).await.context("cannot create a mirror pod")?;
        let object_uid = mirror.uid().context("the mirror pod has no UID")?;
        eventually(Duration::from_secs(20), "the mirror pod is denied", async || {
            let sent = self.sent(STATIC_UID).await?;
            ensure!(matches!(sent, Some(Outcome::Denied(_))), "the agent gets {sent:?}");
            Ok(())
        })
        .await?;
        for uid in [STATIC_UID, &object_uid] {
            self.check_rejected(uid).await?;
        }
        let status = self.podmeta.status(self.namespace, "web").await?;
        ensure!(status.matched_pods == Some(1), "the profile matches {:?} pods", status.matched_pods);

        // A mirror pod that claims the UID of a pod takes nothing from it.
        let (node, web) = (self.node.name_any(), self.namespace.api::<Pod>().get("web").await?);
        let claim = create(mirror_pod("claim", &self.node, &web.uid().context("the pod has no UID")?)).await?;
        self.check_rejected(&claim.uid().context("the mirror pod has no UID")?).await?;
        check_credentials(self.podmeta, self.namespace, &node).await?;

        let policy = json!({
            "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": self.namespace.name},
            "spec": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace.name}},
                "staticPods": "Facts",
            },
        });
        self.namespace.apply(&policy.to_string()).await?;
        let pod = format!("{}/mirror", self.namespace.name);
        self.podmeta.query_until_ok(&node, &[&pod, "ec2", "/latest/meta-data/instance-id"]).await?;
        for path in ["/latest/meta-data/iam/", "/latest/user-data", "/latest/dynamic/instance-identity/document"] {
            let output = self.podmeta.query(&node, &[&pod, "ec2", path]).await?;
            ensure!(!output.succeeded && output.stderr.contains("404"), "{path}: {}{}", output.stderr, output.stdout);
        }
        for uid in [STATIC_UID, &object_uid] {
            self.check_rejected(uid).await?;
        }
        Ok(())
    }

    /// Removes what outlives the test namespace, or blocks its deletion.
    pub(super) async fn clean_up(&self) -> Result<()> {
        let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        for name in ["mirror", "claim"] {
            let pods = self.namespace.api::<Pod>();
            if pods.get_opt(name).await?.is_some() {
                pods.patch(name, &PatchParams::default(), &release).await?;
            }
        }
        // The test may have failed before it created the policy.
        let _absent = self.podmeta.delete_policy(&self.namespace.name).await;
        Ok(())
    }
}

#[tokio::test]
async fn mirror_pods_of_a_kubelet_get_nothing_of_another_namespace() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let node = podmeta.cluster.node("a")?;
        namespace.apply(&access_key_secret()).await?;
        let spec = json!({
            "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
            "userData": {"secretKeyRef": {"name": "keys", "key": "secretAccessKey"}},
        });
        namespace.apply(&profile("web", spec)).await?;
        namespace.start_client(ATTACKER, json!({})).await?;
        namespace.start_client("web", json!({"nodeName": node.name})).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        let kubelet = Client::try_from(node.kubelet_config(podmeta.cluster.config()).await?)?;
        let agent = agent_pod(podmeta, &node.name).await?;
        let stolen = StolenNode {
            podmeta,
            namespace,
            node: Api::<Node>::all(podmeta.cluster.client.clone()).get(&node.name).await?,
            pods: Api::namespaced(kubelet, &namespace.name),
            token: request_token(&podmeta.system, kit::AGENT_ACCOUNT, Some(AUDIENCE), Some(&agent)).await?,
        };
        let attacked = stolen.attack().await;
        stolen.clean_up().await?;
        attacked
    })
    .await
}
