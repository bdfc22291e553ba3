//! Settings and pin of the agent namespace.

use std::io;
use std::path::Path;
use std::sync::Barrier;

use podmeta_link::agent_ns::{self, SETTINGS};
use podmeta_link::netns::Netns;

use crate::kit::{Agent, PinnedPath, run};

/// Reads a setting of a namespace, a path under `/proc/sys/net`.
fn read(netns: &Netns, name: &str) -> String {
    let read = || std::fs::read_to_string(Path::new("/proc/sys/net").join(name));
    netns.run(read).unwrap_or_else(|error| panic!("{name}: {error}")).trim().to_owned()
}

/// Returns the settings whose value is not the wanted one.
fn wrong_settings(netns: &Netns) -> Vec<&'static str> {
    SETTINGS.iter().filter(|(name, value)| read(netns, name) != *value).map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn new_namespace_has_all_settings_and_new_interfaces_inherit_them() {
    let agent = Agent::new().await;
    assert_eq!(wrong_settings(&agent.netns), Vec::<&str>::new());
    run(&agent.netns, "ip link add new0 type veth");
    for (name, value) in SETTINGS {
        if name.contains("/conf/default/") {
            let name = name.replace("/default/", "/new0/");
            assert_eq!(read(&agent.netns, &name), value, "{name}");
        }
    }
}

#[tokio::test]
async fn changed_settings_are_written_again() {
    let agent = Agent::new().await;
    let changed = |value: &str| match value {
        "0" => "1",
        "1" => "0",
        _ => "1024",
    };
    let change = || -> io::Result<()> {
        SETTINGS
            .iter()
            .try_for_each(|(name, value)| std::fs::write(Path::new("/proc/sys/net").join(name), changed(value)))
    };
    agent.netns.run(change).unwrap();
    assert_eq!(wrong_settings(&agent.netns).len(), SETTINGS.len());
    agent_ns::ensure(&agent.path).await.unwrap();
    assert_eq!(wrong_settings(&agent.netns), Vec::<&str>::new());
}

/// Creates the namespace if it is missing.
fn ensure(path: &Path) -> anyhow::Result<Netns> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(agent_ns::ensure(path))
}

/// A second mount would hide the namespace of the first one, which has links already.
#[test]
fn namespace_that_is_removed_during_its_creation_is_pinned_at_most_once() {
    let directory = tempfile::tempdir().unwrap();
    let PinnedPath(path) = &PinnedPath(directory.path().join("podmeta"));
    for round in 0..50 {
        let barrier = Barrier::new(3);
        std::thread::scope(|scope| {
            let create = || {
                barrier.wait();
                ensure(path).unwrap();
            };
            let threads = [scope.spawn(create), scope.spawn(create)];
            barrier.wait();
            while !threads.iter().all(|thread| thread.is_finished()) {
                agent_ns::remove(path).unwrap();
            }
        });
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let pins = mounts.lines().filter(|line| line.split(' ').nth(4) == path.to_str()).count();
        assert!(pins <= 1, "round {round}: {pins} namespaces are pinned");
        agent_ns::remove(path).unwrap();
        assert!(!path.exists(), "round {round}");
    }
}
