//! Enforces NetworkPolicies on a node, which the bridge plugin does not: watches what they depend on, and has nftables do
//! what they come to.

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

use crate::machine::text;
use rules::Known;

/// How many changes make one new table, if they come together.
const MANY: usize = 1024;
/// How long after a watch broke it is begun again: a test must not wait for what a cloud's cluster would be spared.
const AGAIN: Duration = Duration::from_secs(1);

/// Enforces policies until it is killed.
///
/// # Errors
/// If the API server cannot be asked at all.
pub async fn enforce(kubeconfig: &Path, node: &str) -> Result<()> {
    let options = KubeConfigOptions::default();
    let client = Client::try_from(Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?)?;
    let (policies, of_policies) = reflected(Api::<NetworkPolicy>::all(client.clone()));
    let (pods, of_pods) = reflected(Api::<Pod>::all(client.clone()));
    let (namespaces, of_namespaces) = reflected(Api::<Namespace>::all(client));
    let mut changes = select_all([of_policies, of_pods, of_namespaces]).ready_chunks(MANY);
    let mut enforced = String::new();
    while let Some(changed) = changes.next().await {
        changed.into_iter().for_each(report);
        let known = [
            policies.wait_until_ready().now_or_never(),
            pods.wait_until_ready().now_or_never(),
            namespaces.wait_until_ready().now_or_never(),
        ];
        if known.iter().any(Option::is_none) {
            continue; // rules of half a cluster are wrong ones
        }
        let (policies, pods, namespaces) = (policies.state(), pods.state(), namespaces.state());
        let known = Known {
            policies: policies.iter().map(AsRef::as_ref).collect(),
            pods: pods.iter().map(AsRef::as_ref).collect(),
            namespaces: namespaces.iter().map(AsRef::as_ref).collect(),
        };
        // The rules of before stay until there are others.
        let outcome = known.rules(node).and_then(|rules| if rules == enforced { Ok(rules) } else { replace(rules) });
        match outcome {
            Ok(rules) => enforced = rules,
            Err(why) => eprintln!("the rules of before stay: {why:#}"),
        }
    }
    Ok(())
}

/// The objects of a kind as they are now, and a stream that says when that changed.
fn reflected<K>(api: Api<K>) -> (Store<K>, BoxStream<'static, Result<(), watcher::Error>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let again = ExponentialBuilder::default().with_min_delay(AGAIN).with_max_delay(AGAIN).without_max_times();
    let changes = watcher(api, watcher::Config::default()).backoff(ExponentialBackoff::from(again)).reflect(writer);
    (store, changes.map_ok(drop).boxed())
}

fn report(change: Result<(), watcher::Error>) {
    if let Err(why) = change {
        eprintln!("cannot watch, and will try again: {why:#}");
    }
}

fn replace(rules: String) -> Result<String> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = nft.spawn().context("cannot run nft: apt-get install nftables")?;
    process.stdin.take().context("nft reads nothing")?.write_all(rules.as_bytes())?;
    text(&process.wait_with_output()?).with_context(|| format!("nft does not take\n{rules}"))?;
    Ok(rules)
}
