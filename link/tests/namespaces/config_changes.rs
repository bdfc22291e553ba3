//! New pods while the CNI configuration of another program is rewritten, deleted and invalid.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use podmeta_link::cni::conflist::{FILE_NAME, PLUGIN_TYPE};
use podmeta_link::service;
use serde_json::{Value, json};

use crate::cni::{PluginCall, RESULT};
use crate::daemon::{Daemon, REPAIR_TIME, with_silent_runtime};
use crate::kit::{block_until, interface_of, pinned_pod, request};

/// Times that each source configuration is rewritten, deleted and made invalid.
const ROUNDS: usize = 6;

/// New pods between two changes.
const PODS_PER_CHANGE: usize = 2;

/// Returns the configuration that a container runtime gives to podmeta's plugin, or `None` if the plugin is not in the first
/// valid file. Source of the order: `ConfFiles` in containernetworking/cni libcni/conf.go.
fn plugin_config(directory: &Path) -> Option<String> {
    let mut paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf" || extension == "conflist"));
    paths.sort();
    let list = paths.iter().find_map(|path| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok())?;
    let mut config = list["plugins"].as_array()?.iter().find(|plugin| plugin["type"] == PLUGIN_TYPE)?.clone();
    for key in ["name", "cniVersion"] {
        config[key] = list[key].clone();
    }
    config["prevResult"] = serde_json::from_str(RESULT).unwrap();
    Some(config.to_string())
}

/// The state that both threads of the test share.
#[derive(Default)]
struct Progress {
    /// Pods that were started.
    pods: AtomicUsize,
    /// The changes have ended.
    is_done: AtomicBool,
}

impl Progress {
    /// Waits until more pods were started.
    fn wait_for_pods(&self) {
        let wanted = self.pods.load(Ordering::Relaxed) + PODS_PER_CHANGE;
        block_until("more pods were started", || self.pods.load(Ordering::Relaxed) >= wanted);
    }

    /// Changes the sources. At the end, the last one is valid.
    fn change_sources(&self, directory: &Path) {
        let plugin = json!({"type": "bridge"});
        let list = json!({"name": "pods", "cniVersion": "1.0.0", "plugins": [plugin]});
        let single = json!({"name": "pods", "cniVersion": "0.3.1", "type": "bridge"});
        for round in 0..ROUNDS {
            for (name, mut config) in [("10-pods.conflist", list.clone()), ("10-pods.conf", single.clone())] {
                let source = directory.join(name);
                config["round"] = json!(round);
                std::fs::write(&source, config.to_string()).unwrap();
                block_until("podmeta's configuration exists", || plugin_config(directory).is_some());
                self.wait_for_pods();
                config["rewritten"] = json!(true);
                std::fs::write(&source, config.to_string()).unwrap();
                self.wait_for_pods();
                std::fs::write(&source, "{").unwrap();
                self.wait_for_pods();
                std::fs::remove_file(&source).unwrap();
                self.wait_for_pods();
            }
        }
        std::fs::write(directory.join("10-pods.conflist"), list.to_string()).unwrap();
        self.is_done.store(true, Ordering::Relaxed);
    }
}

/// Starts pod `n`. Returns true if it has a link, and false if the runtime must try again or podmeta's plugin is not
/// configured.
fn start_pod(daemon: &Daemon, n: usize) -> bool {
    let (pod, path) = pinned_pod(&daemon.agent, &format!("pod{n}"));
    let added = plugin_config(&daemon.cni)
        .map(|config| PluginCall { agent: &daemon.agent, node: &daemon.node, n, pod: &path.0 }.run("ADD", &config));
    match &added {
        Some(Ok(result)) => assert!(result.contains("eth0"), "{result}"),
        Some(Err(error)) => assert!(error.contains("try again"), "pod {n}: {error}"),
        None => {}
    }
    let has_link = matches!(added, Some(Ok(_)));
    for address in service::addresses() {
        let response = request(&pod, address).ok();
        assert_eq!(response, has_link.then(|| interface_of(&daemon.agent, n)), "pod {n}, {address}");
    }
    has_link
}

#[tokio::test]
async fn new_pods_get_their_own_link_or_try_again_while_the_configuration_changes() {
    let (daemon, _runtime) = with_silent_runtime().await;
    daemon.agent.serve();
    let progress = Progress::default();
    let (linked, not_linked) = std::thread::scope(|scope| {
        scope.spawn(|| progress.change_sources(&daemon.cni));
        let (mut linked, mut not_linked) = (0, 0);
        for n in 0.. {
            if progress.is_done.load(Ordering::Relaxed) {
                break;
            }
            if start_pod(&daemon, n) {
                linked += 1
            } else {
                not_linked += 1
            }
            progress.pods.fetch_add(1, Ordering::Relaxed);
        }
        (linked, not_linked)
    });
    let time = daemon.wait_for_conflist(Instant::now(), PLUGIN_TYPE).await;
    assert!(time < REPAIR_TIME, "{FILE_NAME} is right after {time:?}");
    assert!(start_pod(&daemon, 100_000));
    assert!(linked >= ROUNDS && not_linked >= ROUNDS, "{linked} pods with and {not_linked} without a link");
}
