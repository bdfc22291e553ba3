//! Pods that start at the same time, and whose first instruction requests a token, credentials and the instance ID.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use podmeta_cluster::images::CLIENT;
use podmeta_metadata::dialect::Dialect;
use serde_json::{Value, json};

use super::fixtures::{SECRET_ACCESS_KEY, profile, usable_by_profiles};
use super::load::{number_of_environment, processor_share};
use crate::kit::{self, Podmeta, TestNamespace, eventually};

/// Default number of pods. `PODMETA_NEW_PODS` sets another one.
const PODS: usize = 60;

/// Profiles of the pods. Each has its own credentials.
const PROFILES: usize = 5;

/// Requests a token, the credentials of role `r` and the instance ID, each once. Prints the seconds of the first request,
/// the ID and the credentials.
const FIRST_REQUESTS_SCRIPT: &str = r#"set -e
url=http://169.254.169.254/latest
token=$(curl -sSf -m 10 -w ' %{time_total}' -X PUT $url/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
get() { curl -sSf -m 10 -H "X-aws-ec2-metadata-token: ${token% *}" "$url/meta-data/$1"; }
credentials=$(get iam/security-credentials/r)
echo "${token#* } $(get instance-id) $credentials""#;

/// The output of [`FIRST_REQUESTS_SCRIPT`].
struct FirstResponses {
    /// Duration of the first request in seconds.
    first: f64,
    instance_id: String,
    credentials: Value,
}

impl FirstResponses {
    fn parse(printed: &str) -> Result<Self> {
        let mut parts = printed.splitn(3, ' ');
        let mut part = || parts.next().with_context(|| format!("the pod printed {printed:?}"));
        let (first, instance_id, credentials) = (part()?.parse()?, part()?.to_owned(), part()?);
        Ok(Self { first, instance_id, credentials: serde_json::from_str(credentials)? })
    }
}

fn access_key_id(profile: &str) -> String {
    format!("ASIA{}", profile.to_uppercase())
}

/// The nodes that pods are scheduled to.
#[derive(Clone, Copy, Debug)]
pub(super) enum PodPlacement<'a> {
    /// Every node.
    AnyNode,
    /// The named node, which may not exist yet.
    Node(&'a str),
}

/// Returns a Secret, a profile with its access key, and a Job of pods with the profile. A pod that fails stays failed.
fn manifests(name: &str, pods: usize, placement: PodPlacement<'_>) -> Result<[Value; 3]> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": usable_by_profiles()},
        "stringData": {"accessKeyId": access_key_id(name), "secretAccessKey": SECRET_ACCESS_KEY},
    });
    let roles = json!([{"name": "r", "dialect": "ec2", "secret": {"name": name}}]);
    let container = json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sh", "-c", FIRST_REQUESTS_SCRIPT],
        "resources": processor_share("5m"),
    });
    // The runtime could not start the container: no instruction ran.
    let not_started = json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [128]}});
    let node_selector = match placement {
        PodPlacement::AnyNode => json!({}),
        PodPlacement::Node(node) => json!({"kubernetes.io/hostname": node}),
    };
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {
            "completions": pods, "parallelism": pods, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
            "podFailurePolicy": {"rules": [not_started]},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"restartPolicy": "Never", "nodeSelector": node_selector, "containers": [container]},
            },
        },
    });
    let profile = serde_json::from_str(&profile(name, json!({"roles": roles})))?;
    Ok([secret, profile, job])
}

/// Starts the pods of all profiles at the same time, and waits until all have ended. Returns the pods.
async fn run_pods(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    pods: usize,
    placement: PodPlacement<'_>,
) -> Result<Vec<Pod>> {
    let names = (0..PROFILES).map(|number| format!("web{number}")).collect::<Vec<_>>();
    let pods_of_job = pods.div_ceil(PROFILES);
    let manifests = names.iter().map(|name| manifests(name, pods_of_job, placement)).collect::<Result<Vec<_>>>()?;
    for (name, [secret, profile, _]) in names.iter().zip(&manifests) {
        namespace.apply(&secret.to_string()).await?;
        namespace.apply(&profile.to_string()).await?;
        podmeta.wait_until_programmed(namespace, name, 0).await?;
    }
    try_join_all(manifests.iter().map(async |[_, _, job]| namespace.apply(&job.to_string()).await)).await?;
    let jobs = namespace.api::<Job>();
    for name in &names {
        eventually(Duration::from_secs(600), "all pods have ended", async || {
            let status = jobs.get(name).await?.status.unwrap_or_default();
            let ended = status.succeeded.unwrap_or_default() + status.failed.unwrap_or_default();
            ensure!(usize::try_from(ended)? == pods_of_job, "{ended} of {pods_of_job} pods have ended");
            Ok(())
        })
        .await?;
    }
    let mut pods = namespace.api::<Pod>().list(&ListParams::default()).await?.items;
    pods.retain(|pod| terminated(pod).is_some_and(|ended| ended.reason.as_deref() != Some("StartError")));
    Ok(pods)
}

/// Checks the output of one pod. Returns the duration of its first request in seconds.
async fn check_pod(namespace: &TestNamespace, pod: &Pod) -> Result<f64> {
    let printed = namespace.logs(&pod.name_any(), "client").await?;
    let responses = FirstResponses::parse(&printed).context("a request failed")?;
    let expected = Dialect::Ec2.protocol().instance_id(&pod.uid().context("the pod has no UID")?);
    ensure!(responses.instance_id == expected, "got {}, expected {expected}", responses.instance_id);
    let expected = access_key_id(pod.labels().get("app").context("the pod has no label app")?);
    ensure!(
        responses.credentials.get("AccessKeyId").is_some_and(|key| *key == expected),
        "got {}, expected {expected}",
        responses.credentials
    );
    Ok(responses.first)
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.as_ref()
}

/// Returns what the agents logged about calls to the operator that failed.
async fn failed_calls(podmeta: &Podmeta) -> Result<String> {
    let mut lines = String::new();
    for node in podmeta.cluster.node_names() {
        let log = podmeta.system.logs(&podmeta.agent_on(node).await?, "serve").await?;
        for line in log.lines().filter(|line| line.contains("cannot get credentials from the operator")) {
            lines.push_str(&format!("agent on {node}: {line}\n"));
        }
    }
    Ok(lines)
}

/// Returns the time between the first and the last start of a container in seconds.
fn seconds_of_starts(pods: &[Pod]) -> i64 {
    let starts = pods.iter().filter_map(|pod| Some(terminated(pod)?.started_at.as_ref()?.0.as_second()));
    let starts = starts.collect::<Vec<_>>();
    starts.iter().max().zip(starts.iter().min()).map_or(0, |(last, first)| last - first)
}

/// Starts pods at the same time. Checks that each pod gets its own data with its first requests, and that the node's metadata
/// service gets no request.
pub(super) async fn check_first_requests(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    number: usize,
    placement: PodPlacement<'_>,
) -> Result<()> {
    let requests_before = podmeta.cluster.imds_stub_request_counts().await?;
    let started = Instant::now();
    let pods = run_pods(podmeta, namespace, number, placement).await?;
    let ended = started.elapsed().as_secs_f64();
    ensure!(pods.len() >= number, "{} pods instead of {number}", pods.len());
    let (mut durations, mut failures) = (Vec::new(), BTreeMap::new());
    for pod in &pods {
        match check_pod(namespace, pod).await {
            Ok(first) => durations.push(first),
            Err(error) => drop(failures.insert(pod.name_any(), format!("{error:#}"))),
        }
    }
    durations.sort_by(f64::total_cmp);
    let percentile = |percent: usize| durations.get((durations.len() * percent / 100).saturating_sub(1));
    println!(
        "{} pods ended after {ended:.1} s; containers started within {} s; first request: p50 {:?} s, p99 {:?} s, maximum {:?} s; {} failed",
        pods.len(),
        seconds_of_starts(&pods),
        percentile(50),
        percentile(99),
        durations.last(),
        failures.len(),
    );
    if !failures.is_empty() {
        bail!("{failures:#?}\n{}", failed_calls(podmeta).await?);
    }
    let requests_after = podmeta.cluster.imds_stub_request_counts().await?;
    ensure!(requests_after == requests_before, "the node's service got requests: {requests_after:?}");
    Ok(())
}

#[tokio::test]
async fn first_requests_of_pods_that_start_at_the_same_time_return_their_own_data() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let number = number_of_environment("PODMETA_NEW_PODS", PODS)?;
        check_first_requests(podmeta, namespace, number, PodPlacement::AnyNode).await
    })
    .await
}
