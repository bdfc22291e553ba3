//! Clusters come and go without a trace, beside one another, and whenever the program that makes them is killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::init::KERNEL_SETTINGS;
use podmeta_cluster::machine::text;
use podmeta_cluster::processes::{Process, until};

#[test]
fn clusters_run_side_by_side_survive_a_kill_of_their_program_and_leave_nothing() {
    let mut machines = BTreeSet::new();
    let before = listing(&machines).unwrap();
    let outcome = live(&mut machines);
    for name in ["life-1", "life-2"] {
        if let Err(why) = cluster(&["down", "--name", name]) {
            eprintln!("{why:#}");
        }
    }
    outcome.unwrap();
    let same = until(Duration::from_secs(20), || listing(&machines).is_ok_and(|after| after == before));
    let after = listing(&machines).unwrap();
    let (new, gone): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(same, "left behind: {new:#?}\ngone: {gone:#?}");
}

/// Takes two clusters through their lives, and notes the namespaces of their machines' processes.
fn live(machines: &mut BTreeSet<PathBuf>) -> Result<()> {
    // The first time everything is built, and there is nothing to kill yet.
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    cluster(&["down", "--name", "life-1"])?;
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
    // One that is already up is up at once, and its pods are the same, and not restarted.
    let first = probes()?;
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    ensure!(first.len() == 1 && first == probes()?, "other pods than {first:?}");
    machines.extend(namespaces()?);

    // A machine that dies is made anew, with its node and pods.
    let init = Process::of(&"life-1".parse()?)?.into_iter().find(|process| process.role() == "a/init");
    init.context("node a has no init")?.kill()?;
    cluster(&["up", "--name", "life-1", "--nodes", "1"]).context("after its node was killed")?;
    ensure!(first != probes()?, "the pod of a node that died cannot be there");
    machines.extend(namespaces()?);

    let mut down = start(&["down", "--name", "life-1"])?;
    until(Duration::from_millis(50), || up_ended(&mut down));
    down.kill().and_then(|()| down.wait()).context("cannot kill")?;
    cluster(&["down", "--name", "life-1"])?;
    cluster(&["down", "--name", "life-1"]).context("there is none any more, which is well")?;
    ensure!(cluster(&["status", "--name", "life-1"]).is_err(), "there is none");
    let other = cluster(&["status", "--name", "life-2"])?;
    ensure!(other.contains(" Ready "), "the other cluster lives on: {other}");
    cluster(&["down", "--name", "life-2"]).map(drop)
}

/// Name and number of restarts of the pods that `up` probes the first cluster with.
fn probes() -> Result<Vec<(String, String)>> {
    let status = cluster(&["status", "--name", "life-1"])?;
    let fields =
        status.lines().filter(|line| line.contains("probe-")).map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(fields.filter_map(|fields| Some(((*fields.get(1)?).to_owned(), (*fields.get(4)?).to_owned()))).collect())
}

/// The namespaces of processes that the machines of both clusters are.
fn namespaces() -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for name in ["life-1", "life-2"] {
        for init in Process::of(&name.parse()?)?.iter().filter(|process| process.role().ends_with("/init")) {
            all.push(fs::read_link(format!("/proc/{}/ns/pid", init.pid))?);
        }
    }
    Ok(all)
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

/// What this machine has: processes of a cluster's programs or in a namespace of these, mounts, cgroups, links, routes,
/// rules, settings and files.
fn listing(machines: &BTreeSet<PathBuf>) -> Result<BTreeSet<String>> {
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
        if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|namespace| machines.contains(&namespace)) {
            all.insert(format!("process {} of a machine", entry.file_name().display()));
        }
    }
    all.extend(fs::read_to_string("/proc/self/mounts")?.lines().map(|line| format!("mount {line}")));
    for (setting, _) in KERNEL_SETTINGS {
        all.insert(format!("setting {setting} {}", fs::read_to_string(format!("/proc/sys/{setting}"))?.trim()));
    }
    for (what, command) in [
        ("cgroup", "find /sys/fs/cgroup -type d -name 'podmeta-*'"),
        ("link", "ip -oneline link | cut -d: -f2"),
        ("address", "ip -oneline address | cut -d' ' -f2-8"),
        ("route", "ip route; ip -6 route | sed 's/ expires [0-9]*sec//'"),
        ("rule", "ip rule; ip -6 rule; nft --stateless list ruleset"),
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
