//! Enforces NetworkPolicies on a node, which the bridge plugin does not: watches what they depend on, and has nftables hold
//! what they come to.

pub mod rules;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Config};

use crate::machine::text;
use rules::Known;

/// How long more changes are waited for before a new table is made.
const PAUSE: Duration = Duration::from_millis(50);

/// Enforces policies until it is killed.
///
/// # Errors
/// If the API server cannot be asked at all.
pub async fn enforce(kubeconfig: &Path, node: &str) -> Result<()> {
    let options = KubeConfigOptions::default();
    let client = Client::try_from(Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?)?;
    let (policies, policies_writer) = reflector::store();
    let (pods, pods_writer) = reflector::store();
    let (namespaces, namespaces_writer) = reflector::store();
    let watched = watcher::Config::default;
    let mut changes = select_all([
        watcher(Api::<NetworkPolicy>::all(client.clone()), watched())
            .default_backoff()
            .reflect(policies_writer)
            .map(|event| event.map(drop))
            .boxed(),
        watcher(Api::<Pod>::all(client.clone()), watched())
            .default_backoff()
            .reflect(pods_writer)
            .map(|event| event.map(drop))
            .boxed(),
        watcher(Api::<Namespace>::all(client), watched())
            .default_backoff()
            .reflect(namespaces_writer)
            .map(|event| event.map(drop))
            .boxed(),
    ]);
    let mut held = String::new();
    while let Some(change) = changes.next().await {
        report(change);
        let pause = tokio::time::sleep(PAUSE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(change) = changes.next() => report(change),
            }
        }
        let (policies, pods, namespaces) = (policies.state(), pods.state(), namespaces.state());
        let known = Known {
            policies: policies.iter().map(AsRef::as_ref).collect(),
            pods: pods.iter().map(AsRef::as_ref).collect(),
            namespaces: namespaces.iter().map(AsRef::as_ref).collect(),
        };
        // What is held stays until there is something to hold in its place.
        let outcome = known.rules(node).and_then(|rules| if rules == held { Ok(rules) } else { hold(rules) });
        match outcome {
            Ok(rules) => held = rules,
            Err(why) => eprintln!("the rules of before stay: {why:#}"),
        }
    }
    Ok(())
}

fn report(change: Result<(), watcher::Error>) {
    if let Err(why) = change {
        eprintln!("cannot watch, and will try again: {why:#}");
    }
}

fn hold(rules: String) -> Result<String> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = nft.spawn().context("cannot run nft: apt-get install nftables")?;
    process.stdin.take().context("nft reads nothing")?.write_all(rules.as_bytes())?;
    text(&process.wait_with_output()?).with_context(|| format!("nft does not take\n{rules}"))?;
    Ok(rules)
}
