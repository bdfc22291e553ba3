//! Tests of `cluster up` and `cluster down`: interrupted commands, clusters side by side, and nothing left on the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::machine::command_output;
use podmeta_cluster::machine::init::KERNEL_SETTINGS;
use podmeta_cluster::machine::processes::{ClusterProcess, poll_until};

const CLUSTERS: [&str; 2] = ["life-1", "life-2"];

#[test]
fn clusters_survive_killed_commands_and_leave_nothing_behind() {
    let mut pid_namespaces = BTreeSet::new();
    let before = host_state(&pid_namespaces).unwrap();
    let outcome = run_lifecycle(&mut pid_namespaces);
    for name in CLUSTERS {
        if let Err(error) = cluster(&["down", "--name", name]) {
            eprintln!("{error:#}");
        }
    }
    outcome.unwrap();
    let clean = poll_until(Duration::from_secs(20), || host_state(&pid_namespaces).is_ok_and(|after| after == before));
    let after = host_state(&pid_namespaces).unwrap();
    let (added, removed): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(clean, "left behind: {added:#?}\nremoved: {removed:#?}");
}

/// Creates, kills and deletes two clusters. Adds the PID namespaces of their machines to `pid_namespaces`.
fn run_lifecycle(pid_namespaces: &mut BTreeSet<PathBuf>) -> Result<()> {
    // The first `up` builds programs and images, so that later ones are killed while they create machines.
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    cluster(&["down", "--name", "life-1"])?;
    // Kill `up` while it creates machines, network, control plane and nodes. Each `up` continues from there.
    for milliseconds in [100, 400, 1_000, 2_000, 4_000, 8_000] {
        let mut up = spawn(&["up", "--name", "life-1", "--nodes", "1"])?;
        poll_until(Duration::from_millis(milliseconds), || has_exited(&mut up));
        up.kill().and_then(|()| up.wait()).context("cannot kill `cluster up`")?;
    }
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    cluster(&["up", "--name", "life-2", "--nodes", "1", "--cni", "ptp"])?;
    for (name, cni) in CLUSTERS.into_iter().zip(["bridge", "ptp"]) {
        let status = cluster(&["status", "--name", name])?;
        ensure!(status.contains(&format!("{name}-a")) && status.contains(" Ready "), "{name}: {status}");
        ensure!(status.contains(&format!("cni: {cni}\n")), "{name}: {status}");
    }
    let changed = cluster(&["up", "--name", "life-1", "--nodes", "1", "--cni", "ptp"]).err();
    let error = format!("{:#}", changed.context("the CNI plugin of an existing cluster can be changed")?);
    ensure!(error.contains("cluster life-1 exists with --cni bridge, which cannot be changed"), "{error}");
    // `up` of a running cluster changes nothing: the same pods, without restarts.
    let first = probe_pods()?;
    cluster(&["up", "--name", "life-1", "--nodes", "1"])?;
    ensure!(first.len() == 1 && first == probe_pods()?, "the pods changed, before: {first:?}");
    pid_namespaces.extend(machine_pid_namespaces()?);

    // `up` creates a killed machine again, with its node and pods.
    let init = ClusterProcess::all_of(&"life-1".parse()?)?.into_iter().find(|process| process.role() == "a/init");
    init.context("node a has no init process")?.kill()?;
    cluster(&["up", "--name", "life-1", "--nodes", "1"]).context("after node a was killed")?;
    ensure!(first != probe_pods()?, "the pod of the killed node still exists");
    pid_namespaces.extend(machine_pid_namespaces()?);

    let mut down = spawn(&["down", "--name", "life-1"])?;
    poll_until(Duration::from_millis(50), || has_exited(&mut down));
    down.kill().and_then(|()| down.wait()).context("cannot kill `cluster down`")?;
    cluster(&["down", "--name", "life-1"])?;
    cluster(&["down", "--name", "life-1"]).context("`down` without a cluster")?;
    ensure!(cluster(&["status", "--name", "life-1"]).is_err(), "`status` succeeds without a cluster");
    let other = cluster(&["status", "--name", "life-2"])?;
    ensure!(other.contains(" Ready "), "the other cluster is not ready: {other}");
    cluster(&["down", "--name", "life-2"]).map(drop)
}

/// Returns name and restart count of the probe pods of the first cluster.
fn probe_pods() -> Result<Vec<(String, String)>> {
    let status = cluster(&["status", "--name", "life-1"])?;
    let lines = status.lines().filter(|line| line.contains("probe-"));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(fields.filter_map(|fields| Some(((*fields.get(1)?).to_owned(), (*fields.get(4)?).to_owned()))).collect())
}

/// Returns the PID namespaces of the machines of both clusters.
fn machine_pid_namespaces() -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for name in CLUSTERS {
        let processes = ClusterProcess::all_of(&name.parse()?)?;
        for init in processes.iter().filter(|process| process.role().ends_with("/init")) {
            all.push(fs::read_link(format!("/proc/{}/ns/pid", init.pid))?);
        }
    }
    Ok(all)
}

fn has_exited(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

fn spawn(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run cluster")
}

fn cluster(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_cluster")).args(arguments).output().context("cannot run cluster")?;
    command_output(&output).with_context(|| format!("cluster {}", arguments.join(" ")))
}

/// Lists everything on the host that a cluster could leave behind: processes, mounts, cgroups, links, routes, rules, kernel
/// settings and files. The processes are those of its programs, or in a PID namespace of its machines.
fn host_state(pid_namespaces: &BTreeSet<PathBuf>) -> Result<BTreeSet<String>> {
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
        if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|namespace| pid_namespaces.contains(&namespace)) {
            all.insert(format!("process {} of a machine", entry.file_name().display()));
        }
    }
    all.extend(fs::read_to_string("/proc/self/mounts")?.lines().map(|line| format!("mount {line}")));
    for (setting, _) in KERNEL_SETTINGS {
        all.insert(format!("setting {setting} {}", fs::read_to_string(format!("/proc/sys/{setting}"))?.trim()));
    }
    for (kind, command) in [
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
        all.extend(command_output(&output)?.lines().map(|line| format!("{kind} {}", line.trim())));
    }
    Ok(all)
}
