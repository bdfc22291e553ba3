//! Pods on the host network, which the agent serves through the link of the node.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use podmeta_agent_api::WorkloadItem;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_link::guard::uplink;
use podmeta_link::host_pods::identity::HostPodFinder;
use podmeta_link::host_pods::{HostPods, UnredirectedPods};
use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::{pod_link, service};
use podmeta_metadata::compile::{ConfigMapValues, Settings, compile};
use podmeta_metadata::dialect::Dialect;

use crate::client::{INSTANCE_ID, PodConnection};
use crate::kit::{Agent, alias, block_until, pod, run};
use crate::node::{LinkAgentProcess, RELEASE};

const POD: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001";
const SECOND_POD: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0002";
const DENIED: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0003";
const WITHOUT_PROFILE: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0004";
const NODE: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0005";
const USERS: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0006";
const UNKNOWN: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0007";

/// Profiles of the modes, each for the pods with its name as a label.
const MANIFEST: &str = r"apiVersion: podmeta.dev/v1alpha1
kind: MetadataPolicy
metadata: {name: nodes}
spec: {allowedHostNetwork: [Pod, Node]}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: pod}
spec: {podSelector: {matchLabels: {app: pod}}, dialects: [ec2, ecs], hostNetwork: Pod, metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled}}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: denied}
spec: {podSelector: {matchLabels: {app: denied}}, dialects: [ec2, ecs], metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled}}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: node}
spec: {podSelector: {matchLabels: {app: node}}, dialects: [ec2, ecs], hostNetwork: Node}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: users}
spec: {podSelector: {matchLabels: {app: users}}, dialects: [ec2, ecs], hostNetwork: Pod, deniedUsers: [1000], metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled}}
";

/// Compiles pods on the host network: their UIDs and labels.
fn items(pods: &[(&str, &str)]) -> Vec<WorkloadItem> {
    let pod = |(uid, app): &(&str, &str)| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{uid}, uid: {uid}, labels: {{app: {app}}}}}\nspec: {{hostNetwork: true}}\n"
        )
    };
    let text = MANIFEST.to_owned() + &pods.iter().map(pod).collect::<String>();
    let (objects, errors) = load(&[ManifestFile { name: "pods".to_owned(), text }], Timestamp::UNIX_EPOCH);
    assert!(errors.is_empty(), "{errors:?}");
    let compile = |pod: &podmeta_crds::manifests::LoadedPod| {
        let values = ConfigMapValues::default();
        let compiled = compile(&pod.facts, &objects.profiles, &objects.policies, &values, &Settings::default());
        WorkloadItem { outcome: compiled.outcome, addresses: Vec::new() }
    };
    objects.pods.iter().map(compile).collect()
}

/// A node whose pods on the host network are redirected to a running agent.
struct Node {
    host: Netns,
    cgroups: CgroupRoot,
    items: Vec<WorkloadItem>,
    process: LinkAgentProcess,
    agent: Agent,
    _pins: Pins,
}

impl Node {
    async fn start() -> Self {
        let pods = [
            (POD, "pod"),
            (SECOND_POD, "pod"),
            (DENIED, "denied"),
            (WITHOUT_PROFILE, "none"),
            (NODE, "node"),
            (USERS, "users"),
        ];
        let (host, agent, items) = (pod(), Agent::new().await, items(&pods));
        let (pins, cgroups) = (Pins::new(), CgroupRoot::new());
        let mut redirected = HostPods::new(pins.0.clone(), cgroups.0.clone());
        redirected.ensure(&host, &agent.netns, LinkRange::default(), &UnredirectedPods::default()).await.unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), host.as_fd().as_raw_fd());
        let finder = HostPodFinder::new(Netns::open(path.as_ref()).unwrap(), cgroups.0.clone());
        let process = LinkAgentProcess::start_with_host_pods(&agent, &items, RELEASE.1, Some(finder));
        process.wait_for_log("serving the links of the node's pods");
        Self { host, cgroups, items, process, agent, _pins: pins }
    }

    /// Returns the status and the body for a process in a cgroup. The status is 000 if the connection is closed.
    fn get(&self, cgroup: &Path, address: IpAddr) -> (String, String) {
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let script =
            r#"echo $$ > "$0/cgroup.procs" && exec curl --silent --max-time 10 --write-out '\n%{http_code}' "$1""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(cgroup).arg(format!("http://{host}{INSTANCE_ID}"));
        let output = self.host.run(|| command.output()).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    /// Returns the instance ID of item `n` at a service address.
    fn instance_id(&self, n: usize, address: IpAddr) -> &str {
        let is_at = |dialect: &Dialect| dialect.protocol().selection().addresses.contains(&address);
        let dialect = Dialect::ALL.into_iter().find(is_at).unwrap();
        &self.items[n].outcome.workload().unwrap().part(dialect).unwrap().instance_id
    }

    /// Returns the status for a process of a pod.
    fn status(&self, uid: &str, address: IpAddr) -> String {
        self.get(&self.cgroups.pod(uid), address).0
    }
}

/// A bpf filesystem at a path of its own, removed on drop.
struct Pins(PathBuf, #[allow(dead_code, reason = "it is removed on drop")] tempfile::TempDir);

impl Pins {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bpf");
        uplink::mount(&path).unwrap();
        Self(path, directory)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        uplink::remove_pins(&self.0).unwrap();
    }
}

/// A cgroup that stands for the root of cgroup v2, removed on drop.
struct CgroupRoot(PathBuf);

impl CgroupRoot {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields[2] == "cgroup2").unwrap();
        let thread = nix::unistd::gettid();
        let path = Path::new(mount[1]).join(format!("podmeta-links-{thread}"));
        std::fs::create_dir_all(path.join("kubepods")).unwrap();
        Self(path)
    }

    fn pod(&self, uid: &str) -> PathBuf {
        let path = self.0.join(format!("kubepods/pod{uid}"));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        let pods = std::fs::read_dir(self.0.join("kubepods")).unwrap().map(|entry| entry.unwrap().path());
        let pods = pods.filter(|path| path.is_dir()).collect::<Vec<_>>();
        for path in pods.into_iter().chain([self.0.join("kubepods"), self.0.clone()]) {
            block_until("the cgroup is removed", || std::fs::remove_dir(&path).is_ok());
        }
    }
}

#[tokio::test]
async fn pod_with_the_mode_pod_gets_its_own_data_at_every_service_address() {
    let node = Node::start().await;
    for address in service::addresses() {
        for (n, uid) in [POD, SECOND_POD].into_iter().enumerate() {
            let (status, body) = node.get(&node.cgroups.pod(uid), address);
            assert_eq!(status, "200", "{address}");
            assert_eq!(body, node.instance_id(n, address), "{address} {uid}");
            assert_ne!(body, node.instance_id(1 - n, address), "{address} {uid}");
        }
    }
}

#[tokio::test]
async fn denied_pod_gets_403_and_pod_that_the_operator_does_not_know_503() {
    let node = Node::start().await;
    for address in service::addresses() {
        for uid in [DENIED, WITHOUT_PROFILE, USERS] {
            assert_eq!(node.status(uid, address), "403", "{address} {uid}");
        }
        assert_eq!(node.status(UNKNOWN, address), "503", "{address}");
    }
}

#[tokio::test]
async fn process_of_no_pod_is_closed_with_a_log_line() {
    let node = Node::start().await;
    let other = node.cgroups.0.join("kubepods/other");
    std::fs::create_dir(&other).unwrap();
    assert_eq!(node.get(&other, service::addresses()[0]).0, "000");
    let line = node.process.wait_for_log("closing connection of the node's link");
    assert!(line.contains("belongs to no pod"), "{line}");
}

#[tokio::test]
async fn pod_with_the_mode_node_is_reported_to_the_link_daemon() {
    let node = Node::start().await;
    let is_reported = || node.process.node_pods.get() == Some([NODE.try_into().unwrap()].into());
    block_until("the report", is_reported);
}

#[tokio::test]
async fn pod_with_a_link_is_closed_at_an_address_of_the_link_of_the_node() {
    let (node, own) = (Node::start().await, pod());
    pod_link::ensure(&node.agent.netns, &own, &alias(0), LinkRange::default()).await.unwrap();
    run(&own, "ip route add 169.254.239.2 dev imds0");
    let address = "169.254.239.2".parse().unwrap();
    let result = own.run(|| PodConnection::connect(address)?.get(INSTANCE_ID));
    assert!(result.is_err(), "{result:?}");
}
