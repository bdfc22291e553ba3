//! Clusters come and go without a trace, beside one another, and whenever the program that makes them is killed.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::machine::text;
use podmeta_cluster::processes::until;

#[test]
fn clusters_run_side_by_side_survive_a_kill_of_their_program_and_leave_nothing() {
    let before = listing().unwrap();
    let outcome = live();
    for name in ["life-1", "life-2"] {
        if let Err(why) = cluster(&["down", "--name", name]) {
            eprintln!("{why:#}");
        }
    }
    outcome.unwrap();
    let same = until(Duration::from_secs(20), || listing().is_ok_and(|after| after == before));
    let after = listing().unwrap();
    let (new, gone): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(same, "left behind: {new:#?}\ngone: {gone:#?}");
}

fn live() -> Result<()> {
    // Killed while machines, network, control plane and nodes are made; each `up` goes on from there.
    for milliseconds in [100, 400, 1_000, 2_000, 4_000, 8_000] {
        let mut up = start(&["up", "--name", "life-1", "--nodes", "1"])?;
        until(Duration::from_millis(milliseconds), || up_ended(&mut up));
        up.kill().and_then(|()| up.wait()).context("cannot kill")?;
    }
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    cluster(&["up", "--name", "life-2", "--nodes", "1"])?;
    for name in ["life-1", "life-2"] {
        let status = cluster(&["status", "--name", name])?;
        ensure!(status.contains(&format!("{name}-a")) && status.contains(" Ready "), "{name}: {status}");
    }
    // One that is already up is up at once, and its pods are the same.
    let pods = |status: String| {
        status
            .lines()
            .filter(|line| line.contains("probe-"))
            .map(|line| line.split_whitespace().nth(1).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let first = pods(cluster(&["status", "--name", "life-1"])?);
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    ensure!(first == pods(cluster(&["status", "--name", "life-1"])?), "other pods");

    let mut down = start(&["down", "--name", "life-1"])?;
    until(Duration::from_millis(200), || up_ended(&mut down));
    down.kill().and_then(|()| down.wait()).context("cannot kill")?;
    cluster(&["down", "--name", "life-1"])?;
    cluster(&["down", "--name", "life-1"]).context("there is none any more, which is well")?;
    ensure!(cluster(&["status", "--name", "life-1"]).is_err(), "there is none");
    let other = cluster(&["status", "--name", "life-2"])?;
    ensure!(other.contains(" Ready "), "the other cluster lives on: {other}");
    cluster(&["down", "--name", "life-2"]).map(drop)
}

fn up_ended(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

fn start(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start the program")
}

fn cluster(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cluster")).args(arguments).output().context("cannot start the program")?;
    text(&output).with_context(|| format!("cluster {}", arguments.join(" ")))
}

/// What the machine has: processes of a cluster's programs, namespaces, mounts, cgroups, links, routes, rules and files.
fn listing() -> Result<BTreeSet<String>> {
    let programs = [
        "cluster",
        "containerd",
        "containerd-shim-runc-v2",
        "coredns",
        "etcd",
        "kube-apiserver",
        "kube-proxy",
        "kubelet",
        "pause",
        "runc",
    ];
    let mut all = BTreeSet::new();
    for entry in fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
    {
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if programs.iter().any(|program| program.starts_with(command.trim()) && !command.trim().is_empty()) {
            all.insert(format!("process {} {}", entry.file_name().display(), command.trim()));
        }
        for kind in ["net", "pid", "mnt", "cgroup", "uts", "ipc"] {
            if let Ok(namespace) = fs::read_link(entry.path().join("ns").join(kind)) {
                all.insert(format!("namespace {}", namespace.display()));
            }
        }
    }
    all.extend(fs::read_to_string("/proc/self/mounts")?.lines().map(|line| format!("mount {line}")));
    for (what, command) in [
        ("cgroup", "find /sys/fs/cgroup -type d -name 'podmeta-*'"),
        ("link", "ip -oneline link | cut -d: -f2"),
        ("address", "ip -oneline address | cut -d' ' -f2-8"),
        ("route", "ip route; ip -6 route"),
        ("rule", "ip rule; ip -6 rule; nft list ruleset"),
        (
            "state",
            "ls -d /var/lib/podmeta-cluster/* /run/containerd /run/kubernetes /var/lib/kubelet /etc/cni /opt/cni 2>/dev/null || true",
        ),
    ] {
        let output = Command::new("sh").args(["-c", command]).output()?;
        all.extend(text(&output)?.lines().map(|line| format!("{what} {}", line.trim())));
    }
    Ok(all)
}
