//! Effect of attacks on another pod and on the agent: slow request heads, token requests on new connections, and buffers
//! that the clients keep full. `flood` measures a plain flood.

mod connections;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::connections::{hold, send_slow_heads};
use crate::RunOptions;
use crate::load::load;
use crate::manifests::{PodLimits, WorkDir};
use crate::process::ServerProcess;
use crate::requests::{RequestKind, record, record_user_data, token, user_data_request};
use crate::statistics::Spread;
use crate::throughput::AGENT_ARRANGEMENT;

/// Number of pods: 40 that can attack, and one that is measured.
const PODS: usize = 41;

/// Number of connections of each attacking pod, if all pods attack.
const CONNECTIONS_PER_POD: usize = 250;

/// Number of clients that request tokens on new connections.
const CLIENTS: usize = 64;

/// Interval between two requests of the measured pod.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);

/// Duration of the attack before the measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// Requests of one unread connection. They fit into the agent's receive buffer.
const PIPELINED_REQUESTS: usize = 64;

/// Attack by all pods except the last one, which is measured.
#[derive(Clone, Copy, Debug)]
enum AttackKind {
    /// 40 pods keep 250 connections each and send one byte of a request head per second on each.
    SlowHeads,
    /// 64 clients of one pod request a token, then an item, each on a new connection.
    NewConnections,
    /// Pods keep connections with as many pipelined requests for the longest response as fit, and read nothing.
    UnreadResponses(Attackers),
    /// Pods keep connections with a head that lacks its last bytes.
    PartialHeads(Attackers),
}

/// The attacking pods. Together they open as many connections as their limits allow, and replace closed ones.
#[derive(Clone, Copy, Debug)]
enum Attackers {
    /// One pod with the highest default limits of a policy: 1,024 connections.
    OnePod,
    /// 40 pods with 250 connections each.
    ManyPods,
}

/// Result of one round.
struct AttackRound {
    p99_before: f64,
    p99_during: f64,
    resident_before: f64,
    resident_during: f64,
    /// Growth of the kernel's memory of the server's sockets, in KiB.
    server_sockets: f64,
    /// Growth of the kernel's TCP buffers in KiB, those of the clients included.
    tcp_buffers: f64,
    cores: f64,
}

/// Runs all attacks and prints the table.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    raise_file_limit()?;
    println!("\n## Attacks, latency of another pod\n");
    println!(
        "| attack | server | p99 µs before | p99 µs during the attack | ratio | resident KiB before | during | server's sockets KiB | all TCP buffers KiB | CPU, cores |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (attack, name) in [
        (AttackKind::SlowHeads, "10,000 connections, one byte per second on each"),
        (AttackKind::NewConnections, "64 clients, tokens on new connections"),
        (AttackKind::UnreadResponses(Attackers::OnePod), "unread responses, 1 pod × 1,024 connections"),
        (AttackKind::UnreadResponses(Attackers::ManyPods), "unread responses, 40 pods × 250 connections"),
        (AttackKind::PartialHeads(Attackers::OnePod), "partial heads of 8 KiB, 1 pod × 1,024 connections"),
        (AttackKind::PartialHeads(Attackers::ManyPods), "partial heads of 8 KiB, 40 pods × 250 connections"),
    ] {
        let (mut of_baseline, mut of_agent, mut of_control) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let agent = agent(attack, options, work_dir)?;
            let baseline = baseline(attack, &agent)?;
            of_baseline.push(round(attack, options, &baseline, measured_pod(&baseline)?)?);
            of_agent.push(round(attack, options, &agent, measured_pod(&agent)?)?);
            drop((baseline, agent));
            // New servers: those above were attacked already.
            let agent = self::agent(attack, options, work_dir)?;
            let baseline = self::baseline(attack, &agent)?;
            of_control.push(round(attack, options, &agent, measured_pod(&baseline)?)?);
        }
        row(name, "baseline", &of_baseline, &of_baseline);
        row(name, "**agent**", &of_agent, &of_baseline);
        row(name, "baseline, attack on the agent", &of_control, &of_baseline);
    }
    Ok(())
}

/// Prints the medians of the rounds. The ratio is that of the latencies during the attack.
fn row(attack: &str, server: &str, rounds: &[AttackRound], baseline: &[AttackRound]) {
    let median = |rounds: &[AttackRound], of: fn(&AttackRound) -> f64| Spread::of(rounds.iter().map(of)).median;
    let p99_during = |rounds| median(rounds, |round| round.p99_during);
    println!(
        "| {attack} | {server} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
        median(rounds, |round| round.p99_before),
        p99_during(rounds),
        p99_during(rounds) / p99_during(baseline),
        median(rounds, |round| round.resident_before),
        median(rounds, |round| round.resident_during),
        median(rounds, |round| round.server_sockets),
        median(rounds, |round| round.tcp_buffers),
        median(rounds, |round| round.cores),
    );
}

/// Starts an agent with the pods of an attack.
fn agent(attack: AttackKind, options: &RunOptions, work_dir: &WorkDir) -> Result<ServerProcess> {
    ServerProcess::agent(&work_dir.pods(PODS, attack.limits())?, &["--log", &options.log])
}

/// Starts a baseline with the agent's responses. All pods have its only address.
fn baseline(attack: AttackKind, agent: &ServerProcess) -> Result<ServerProcess> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (token, mut responses) = runtime.block_on(record(agent.address()?))?;
    if let PodLimits::PolicyDefault = attack.limits() {
        responses.push(runtime.block_on(record_user_data(agent.address()?, &token))?);
    }
    let mut baseline = ServerProcess::baseline(&responses, AGENT_ARRANGEMENT)?;
    baseline.addresses = vec![baseline.address()?; PODS];
    Ok(baseline)
}

/// Returns the address of the pod that does not attack.
fn measured_pod(server: &ServerProcess) -> Result<SocketAddr> {
    server.addresses.last().copied().context("too few pods")
}

/// Attacks a server, and measures the latency of a pod of the same server or of another one. Memory and processor time are those
/// of the attacked server.
#[allow(clippy::cast_precision_loss, reason = "KiB are far below 2^52")]
fn round(
    attack: AttackKind,
    options: &RunOptions,
    server: &ServerProcess,
    measured_pod: SocketAddr,
) -> Result<AttackRound> {
    let (_, attacking_pods) = server.addresses.split_last().context("too few pods")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pattern = RequestKind::Leaf.pattern(&runtime.block_on(token(measured_pod))?);
    let load_measured_pod = || load(measured_pod, &pattern, 1, options.time, REQUEST_INTERVAL);
    let p99_before = load_measured_pod()?.quantile(0.99);
    let resident_before = server.resident()?.total as f64;
    let (sockets_before, tcp_before) = (server.socket_memory()?, tcp_buffers()?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack.run(attacking_pods, options.time, &over));
        let measured = (|| {
            std::thread::sleep(WARM_UP);
            let (started, used) = (Instant::now(), server.processor_time()?);
            let p99_during = load_measured_pod()?.quantile(0.99);
            let cores = server.processor_time()?.saturating_sub(used).as_secs_f64() / started.elapsed().as_secs_f64();
            Ok(AttackRound {
                p99_before,
                p99_during,
                resident_before,
                resident_during: server.resident()?.total as f64,
                server_sockets: server.socket_memory()?.saturating_sub(sockets_before) as f64,
                tcp_buffers: tcp_buffers()?.saturating_sub(tcp_before) as f64,
                cores,
            })
        })();
        over.store(true, Ordering::Relaxed); // also after an error, or the attack never ends
        attacker.join().ok().context("the attack thread panicked")??;
        measured
    })
}

impl AttackKind {
    fn limits(self) -> PodLimits {
        match self {
            Self::SlowHeads | Self::NewConnections => PodLimits::Default,
            Self::UnreadResponses(_) | Self::PartialHeads(_) => PodLimits::PolicyDefault,
        }
    }

    fn run(self, pods: &[SocketAddr], time: Duration, over: &AtomicBool) -> Result<()> {
        match self {
            Self::SlowHeads => send_slow_heads(pods, CONNECTIONS_PER_POD, over),
            Self::NewConnections => {
                let pod = *pods.first().context("too few pods")?;
                let first = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(token(pod))?;
                load(pod, &RequestKind::TokenThenLeaf.pattern(&first), CLIENTS, WARM_UP + time, Duration::ZERO)
                    .map(drop)
            }
            Self::UnreadResponses(attackers) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let requests = |pod: &SocketAddr| {
                    let request = user_data_request(&runtime.block_on(token(*pod))?);
                    anyhow::Ok((*pod, request.repeat(PIPELINED_REQUESTS)))
                };
                let pods = attackers.choose(pods).iter().map(requests).collect::<Result<Vec<_>>>()?;
                hold(&pods, attackers.connections(), over)
            }
            Self::PartialHeads(attackers) => {
                let head = format!("GET /latest/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: {}", "x".repeat(8100));
                let pods = attackers.choose(pods).iter().map(|pod| (*pod, head.clone().into_bytes()));
                hold(&pods.collect::<Vec<_>>(), attackers.connections(), over)
            }
        }
    }
}

impl Attackers {
    fn choose(self, pods: &[SocketAddr]) -> &[SocketAddr] {
        match self {
            Self::OnePod => pods.get(..1).unwrap_or_default(),
            Self::ManyPods => pods,
        }
    }

    /// Returns the connections of each pod.
    fn connections(self) -> usize {
        match self {
            Self::OnePod => 1024,
            Self::ManyPods => CONNECTIONS_PER_POD,
        }
    }
}

/// Returns the kernel's memory for TCP buffers of this network namespace, in KiB.
fn tcp_buffers() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:")).context("sockstat has no TCP line")?;
    let pages = tcp.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1);
    Ok(pages.context("sockstat has no TCP memory")?.parse::<u64>()? * 4)
}

/// Raises the limit of open files. This process and the agent, its child, hold 10,000 connections.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
