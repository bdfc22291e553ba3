//! A pod with the capabilities NET_ADMIN and NET_RAW on the node of a neighbour. It tries to get the response of the neighbour or
//! of the node's own metadata service, and to stop the neighbour's connections.

mod arrivals;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use podmeta_cluster::images::CLIENT;
use podmeta_cluster::layout::{METADATA_ADDRESSES, url_host};
use podmeta_metadata::dialect::Dialect;
use serde_json::json;

use self::arrivals::{Announcements, dropped};
use super::fixtures::profile;
use super::load::{CheckCounts, Load, LoadEnd, TokenUse, checking_pod};
use crate::kit::{self, LINK_COMMAND, Podmeta, TestNamespace, eventually, pod_addresses};

const ATTACKER: &str = include_str!("scripts/attacker.py");

/// Requests of the neighbour during each attack, each with a new connection. Each process sends as many for tokens.
const NEIGHBOUR_LOAD: Load =
    Load { end: LoadEnd::Requests(25), pause: 0, requests_of_connections: &[1, 1], tokens: TokenUse::Connection };

/// The responses that the attacker may get from a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// No response: the attack leads away from its link, or is dropped.
    Nothing,
    /// No response or its own data: the attack leaves its link or breaks it for some time.
    OwnData,
}

/// Attacks with changed routes, addresses and links: name, shell script, and what the attacker may get. The script has the
/// variables `services4`, `service6`, and the addresses of the neighbour: `link4` and `link6`, `pod4` and `pod6`.
const ATTACKS: [(&str, &str, Allowed); 7] = [
    ("deleted routes", "for a in $services4; do ip route del $a; done; ip -6 route del $service6", Allowed::Nothing),
    (
        "routes by eth0",
        "for a in $services4; do ip route replace $a dev eth0; done; ip -6 route replace $service6 dev eth0 metric 1",
        Allowed::Nothing,
    ),
    (
        "routes by the neighbour",
        "for a in $services4; do ip route replace $a via $pod4 dev eth0 onlink; done
         ip -6 route replace $service6 via $pod6 dev eth0 onlink metric 1",
        Allowed::Nothing,
    ),
    (
        "source address of the neighbour's link",
        "ip addr add $link4/32 dev imds0; ip -6 addr add $link6/128 dev imds0 nodad
         for a in $services4; do ip route replace $a dev imds0 src $link4; done
         ip -6 route replace $service6 dev imds0 src $link6 metric 1",
        Allowed::Nothing,
    ),
    (
        "source address of the neighbour",
        "ip addr add $pod4/32 dev imds0; ip -6 addr add $pod6/128 dev imds0 nodad
         for a in $services4; do ip route replace $a dev imds0 src $pod4; done
         ip -6 route replace $service6 dev imds0 src $pod6 metric 1",
        Allowed::Nothing,
    ),
    (
        "service addresses of its own",
        "for a in $services4; do ip addr add $a/32 dev imds0; done; ip -6 addr add $service6/128 dev imds0 nodad",
        Allowed::Nothing,
    ),
    ("deleted link", "ip link del imds0", Allowed::OwnData),
];

/// A pod and the instance IDs of its responses, in the order of [`METADATA_ADDRESSES`].
struct AttackPod {
    name: String,
    instance_ids: Vec<String>,
}

impl AttackPod {
    fn new(pod: &Pod) -> Result<Self> {
        let uid = pod.uid().context("the pod has no UID")?;
        let id = |address: &str| {
            let dialect = if address == "100.100.100.200" { Dialect::Ecs } else { Dialect::Ec2 };
            dialect.protocol().instance_id(&uid)
        };
        Ok(Self { name: pod.name_any(), instance_ids: METADATA_ADDRESSES.into_iter().map(id).collect() })
    }

    /// Returns true if each service address responded with the pod's own data.
    fn owns_all(&self, responses: &[Option<String>]) -> bool {
        responses.iter().map(Option::as_ref).eq(self.instance_ids.iter().map(Some))
    }
}

/// A neighbour on node `a`, and the attackers, one after another.
struct Attack<'a> {
    podmeta: &'a Podmeta,
    namespace: &'a TestNamespace,
    node: String,
    neighbour: AttackPod,
    /// Addresses of the neighbour: IPv4 and IPv6 of its link, IPv4 and IPv6 of its `eth0`.
    addresses: [String; 4],
}

impl<'a> Attack<'a> {
    async fn new(podmeta: &'a Podmeta, namespace: &'a TestNamespace) -> Result<Self> {
        let node = podmeta.cluster.node("a")?.name;
        let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled"});
        let limits = json!({"requestsPerSecond": 2000, "burst": 4000});
        let spec = json!({"dialects": ["ec2", "ecs"], "metadataOptions": options, "limits": limits});
        for name in ["neighbour", "attacker"] {
            namespace.apply(&profile(name, spec.clone())).await?;
        }
        let sleep = ["sleep", "infinity"].map(str::to_owned);
        let pod = namespace.start("neighbour", &checking_pod("neighbour", "neighbour", &node, &sleep)).await?;
        podmeta.wait_until_programmed(namespace, "neighbour", 1).await?;
        let link = async |family| {
            let show = ["ip", "-o", family, "addr", "show", "dev", "imds0", "scope", "global"];
            let printed = namespace.run("neighbour", &show).await?;
            let address = printed.split_whitespace().nth(3).and_then(|address| address.split('/').next());
            address.map(str::to_owned).with_context(|| format!("no address of the link: {printed}"))
        };
        let (link4, link6, (pod4, pod6)) = (link("-4").await?, link("-6").await?, pod_addresses(&pod)?);
        let neighbour = AttackPod::new(&pod)?;
        Ok(Self { podmeta, namespace, node, neighbour, addresses: [link4, link6, pod4, pod6] })
    }

    /// Starts an attacker, and waits until it gets its own data at each service address.
    async fn start_attacker(&self, number: usize) -> Result<AttackPod> {
        let name = format!("attacker-{number}");
        let client = json!({
            "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
            "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        });
        let spec = json!({"nodeName": self.node, "containers": [client]});
        let pod = self.namespace.start(&name, &kit::client_pod(&name, "attacker", spec)).await?;
        let attacker = AttackPod::new(&pod)?;
        self.wait_for_own_data(&attacker).await?;
        Ok(attacker)
    }

    async fn wait_for_own_data(&self, attacker: &AttackPod) -> Result<()> {
        eventually(Duration::from_secs(30), "the attacker gets its own data", async || {
            let responses = self.responses(attacker).await?;
            ensure!(attacker.owns_all(&responses), "{responses:?}");
            Ok(())
        })
        .await
    }

    /// Returns the response of each service address to a pod, or `None` if there was none.
    async fn responses(&self, pod: &AttackPod) -> Result<Vec<Option<String>>> {
        try_join_all(METADATA_ADDRESSES.map(async |address| {
            let url = format!("http://{}/latest/meta-data/instance-id", url_host(address));
            let output = self.namespace.exec(&pod.name, &["curl", "-gsS", "-m", "3", &url]).await?;
            Ok(output.succeeded.then_some(output.stdout))
        }))
        .await
    }

    /// Checks what the attacker gets, and that all new connections of the neighbour get its own data.
    async fn check(&self, name: &str, attacker: &AttackPod, allowed: Allowed) -> Result<()> {
        let responses = self.responses(attacker).await?;
        println!("{name}: {responses:?}");
        for (response, own) in responses.iter().zip(&attacker.instance_ids) {
            let is_allowed = response.as_ref().is_none_or(|response| allowed == Allowed::OwnData && response == own);
            ensure!(is_allowed, "the attacker got {responses:?} with {name}; it is {:?}", attacker.instance_ids);
        }
        let command = NEIGHBOUR_LOAD.command();
        let command = command.iter().map(String::as_str).collect::<Vec<_>>();
        let counts = CheckCounts::parse(&self.namespace.run(&self.neighbour.name, &command).await?)?;
        ensure!(counts.failed == 0 && counts.wrong == 0 && counts.right == 50, "{name}: {counts:?}");
        let responses = self.responses(&self.neighbour).await?;
        ensure!(self.neighbour.owns_all(&responses), "{name}: {responses:?}");
        Ok(())
    }

    /// Runs `body` while the link daemon of the node is stopped. It checks a new pod within five seconds, and would repair its link.
    async fn without_link_daemon(&self, body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let node = self.podmeta.cluster.node_by_name(&self.node);
        let daemon = self.podmeta.processes(&self.node, LINK_COMMAND).await?;
        let daemon = daemon.first().context("no link daemon runs on the node")?;
        node.sh(&format!("kill -STOP {daemon}")).await?;
        let result = body().await;
        node.sh(&format!("kill -CONT {daemon}")).await?;
        result
    }

    /// Returns a shell script with the variables of [`ATTACKS`].
    fn script(&self, commands: &str) -> String {
        let [link4, link6, pod4, pod6] = &self.addresses;
        format!(
            "set -e\nservices4='169.254.169.254 100.100.100.200' service6=fd00:ec2::254\n\
             link4={link4} link6={link6} pod4={pod4} pod6={pod6}\n{commands}"
        )
    }

    /// Sends packets of a kind from the attacker during the checks.
    async fn check_with_packets(&self, kind: &str, attacker: &AttackPod) -> Result<()> {
        let name = attacker.name.as_str();
        let [link4, link6, pod4, pod6] = &self.addresses;
        let command = ["python3", "-c", ATTACKER, kind, link4, link6, pod4, pod6];
        let checks = async {
            let started = eventually(Duration::from_secs(30), "the attack has started", async || {
                self.namespace.run(name, &["test", "-e", "/started"]).await.map(drop)
            });
            let result = match started.await {
                Ok(()) => self.check(kind, attacker, Allowed::OwnData).await,
                Err(error) => Err(error),
            };
            self.namespace.run(name, &["touch", "/stop"]).await?;
            result
        };
        let (sent, checks) = tokio::join!(self.namespace.run(name, &command), checks);
        println!("{kind}: {} packets", sent?.trim());
        checks
    }
}

/// Runs attacks against a neighbour. Fails if the node's own service got a request.
async fn attack_test(body: impl AsyncFnOnce(&Attack<'_>) -> Result<()>) -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let before = podmeta.cluster.imds_stub_request_counts().await?;
        let attack = Attack::new(podmeta, namespace).await?;
        body(&attack).await?;
        let after = attack.podmeta.cluster.imds_stub_request_counts().await?;
        ensure!(after == before, "the node's service got requests: {before:?} before, {after:?} after");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn changed_routes_addresses_and_links_of_a_pod_reach_no_other_data() -> Result<()> {
    attack_test(async |attack| {
        for (number, (name, commands, allowed)) in ATTACKS.into_iter().enumerate() {
            let attacker = attack.start_attacker(number).await?;
            let check = async || {
                attack.namespace.run(&attacker.name, &["sh", "-c", &attack.script(commands)]).await?;
                attack.check(name, &attacker, allowed).await
            };
            match allowed {
                Allowed::Nothing => attack.without_link_daemon(check).await?,
                Allowed::OwnData => {
                    check().await?;
                    attack.wait_for_own_data(&attacker).await?;
                }
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn false_announcements_of_a_pod_change_no_response_of_a_neighbour() -> Result<()> {
    attack_test(async |attack| {
        let attacker = attack.start_attacker(0).await?;
        let before = Announcements::read(attack).await?;
        attack.check_with_packets("announce", &attacker).await?;
        let after = Announcements::read(attack).await?;
        println!("announcements: {before:?} before, {after:?} after");
        after.check_arrived_since(&before, attack).await
    })
    .await
}

#[tokio::test]
async fn half_open_connections_of_a_pod_stop_no_connection_of_a_neighbour() -> Result<()> {
    attack_test(async |attack| {
        let attacker = attack.start_attacker(0).await?;
        // The kernel of the attacker would reset a connection that it did not open.
        let filter = "nft 'table inet flood { chain in { type filter hook input priority 0; iifname imds0 drop; }; }'";
        attack.namespace.run(&attacker.name, &["sh", "-c", filter]).await?;
        attack.check_with_packets("flood", &attacker).await?;
        ensure!(dropped(attack, "@rates").await? > 0, "the limit of new connections dropped nothing");
        Ok(())
    })
    .await
}
