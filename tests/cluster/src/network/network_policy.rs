//! Enforces NetworkPolicies on a node with nftables, because the CNI plugins of the nodes do not.

pub mod rules;

use std::fmt::Debug;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use backon::ExponentialBuilder;
use futures_util::stream::{BoxStream, select_all};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, ExponentialBackoff, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

use crate::machine::command_output;
use rules::PolicyObjects;

/// Maximum number of changes that are applied as one new table.
const UPDATE_BATCH_SIZE: usize = 1024;
/// Delay before a failed watch is retried. It is constant, so that tests do not wait for a long backoff.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Enforces policies until the process is killed.
///
/// # Errors
/// If the kubeconfig is not valid.
pub async fn enforce(kubeconfig: &Path, node: &str) -> Result<()> {
    let options = KubeConfigOptions::default();
    let client = Client::try_from(Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?)?;
    let (policies, policy_changes) = watch(Api::<NetworkPolicy>::all(client.clone()));
    let (pods, pod_changes) = watch(Api::<Pod>::all(client.clone()));
    let (namespaces, namespace_changes) = watch(Api::<Namespace>::all(client));
    let mut changes = select_all([policy_changes, pod_changes, namespace_changes]).ready_chunks(UPDATE_BATCH_SIZE);
    let mut enforced = String::new();
    while let Some(batch) = changes.next().await {
        batch.into_iter().for_each(log_watch_error);
        let synced = [
            policies.wait_until_ready().now_or_never(),
            pods.wait_until_ready().now_or_never(),
            namespaces.wait_until_ready().now_or_never(),
        ];
        if synced.iter().any(Option::is_none) {
            continue; // rules from incomplete caches would be wrong
        }
        let (policies, pods, namespaces) = (policies.state(), pods.state(), namespaces.state());
        let objects = PolicyObjects {
            policies: policies.iter().map(AsRef::as_ref).collect(),
            pods: pods.iter().map(AsRef::as_ref).collect(),
            namespaces: namespaces.iter().map(AsRef::as_ref).collect(),
        };
        let outcome = objects.rules(node).and_then(|rules| if rules == enforced { Ok(rules) } else { replace(rules) });
        match outcome {
            Ok(rules) => enforced = rules,
            Err(error) => eprintln!("cannot update network policy rules: {error:#}; keeping the previous rules"),
        }
    }
    Ok(())
}

/// Watches all objects of a kind. Returns their cache and a stream of its changes.
fn watch<K>(api: Api<K>) -> (Store<K>, BoxStream<'static, Result<(), watcher::Error>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let backoff =
        ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_delay(RETRY_DELAY).without_max_times();
    let changes = watcher(api, watcher::Config::default()).backoff(ExponentialBackoff::from(backoff)).reflect(writer);
    (store, changes.map_ok(drop).boxed())
}

fn log_watch_error(change: Result<(), watcher::Error>) {
    if let Err(error) = change {
        eprintln!("watch failed: {error:#}; retrying in {} s", RETRY_DELAY.as_secs());
    }
}

/// Replaces the table in one nftables transaction.
fn replace(rules: String) -> Result<String> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = nft.spawn().context("cannot run nft: apt-get install nftables")?;
    process.stdin.take().context("nft has no stdin")?.write_all(rules.as_bytes())?;
    command_output(&process.wait_with_output()?).with_context(|| format!("nft rejects the rules\n{rules}"))?;
    Ok(rules)
}
