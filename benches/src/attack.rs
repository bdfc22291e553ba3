//! Effect of attacks on another pod and on the agent: 10,000 slow request heads, and token requests on new connections.
//! `flood` measures a plain flood.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::RunOptions;
use crate::load::load;
use crate::manifests::{PodLimits, WorkDir};
use crate::process::ServerProcess;
use crate::requests::{RequestKind, token};
use crate::statistics::Spread;

const PODS: usize = 41;
const CONNECTIONS_PER_POD: usize = 250;
const CLIENTS: usize = 64;
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);
/// Duration of the attack before the measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// Attack by all pods except the last one, which is measured.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// 40 pods keep 250 connections each and send one byte of a request head per second on each.
    SlowHeads,
    /// 64 clients of one pod request a token, then an item, each on a new connection.
    NewConnections,
}

/// Result of one round.
struct AttackRound {
    p99_before: f64,
    p99_during: f64,
    resident_before: f64,
    resident_during: f64,
    cores: f64,
}

/// Runs all attacks and prints the table.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    raise_file_limit()?;
    println!("\n## Attacks, latency of another pod\n");
    println!(
        "| attack | p99 µs before | p99 µs during the attack | ratio | resident KiB before | during | CPU, cores |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (attack, name) in [
        (Attack::SlowHeads, "10,000 connections, one byte per second on each"),
        (Attack::NewConnections, "64 clients, tokens on new connections"),
    ] {
        let rounds = (0..options.rounds).map(|_| round(attack, options, work_dir)).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&AttackRound) -> f64| Spread::of(rounds.iter().map(of)).median;
        let (p99_before, p99_during) = (median(|round| round.p99_before), median(|round| round.p99_during));
        println!(
            "| {name} | {p99_before:.0} | {p99_during:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            p99_during / p99_before,
            median(|round| round.resident_before),
            median(|round| round.resident_during),
            median(|round| round.cores),
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "KiB are far below 2^52")]
fn round(attack: Attack, options: &RunOptions, work_dir: &WorkDir) -> Result<AttackRound> {
    let server = ServerProcess::agent(&work_dir.pods(PODS, PodLimits::Default)?, &["--log", &options.log])?;
    let (measured_pod, attacking_pods) = server.addresses.split_last().context("too few pods")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pattern = RequestKind::Leaf.pattern(&runtime.block_on(token(*measured_pod))?);
    let load_measured_pod = || load(*measured_pod, &pattern, 1, options.time, REQUEST_INTERVAL);
    let p99_before = load_measured_pod()?.quantile(0.99);
    let resident_before = server.resident()?.total as f64;
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
                cores,
            })
        })();
        over.store(true, Ordering::Relaxed); // also after an error, or the attack never ends
        attacker.join().ok().context("the attack thread panicked")??;
        measured
    })
}

impl Attack {
    fn run(self, pods: &[SocketAddr], time: Duration, over: &AtomicBool) -> Result<()> {
        match self {
            Self::SlowHeads => slow_heads(pods, over),
            Self::NewConnections => {
                let pod = *pods.first().context("too few pods")?;
                let first = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(token(pod))?;
                load(pod, &RequestKind::TokenThenLeaf.pattern(&first), CLIENTS, WARM_UP + time, Duration::ZERO)
                    .map(drop)
            }
        }
    }
}

fn slow_heads(pods: &[SocketAddr], over: &AtomicBool) -> Result<()> {
    let mut streams = Vec::new();
    for pod in pods {
        for _ in 0..CONNECTIONS_PER_POD {
            let mut stream = TcpStream::connect(pod)?;
            stream.write_all(b"GET /latest/ HTTP/1.1\r\nX-Slow: ")?;
            streams.push(stream);
        }
    }
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_secs(1);
        for stream in &mut streams {
            drop(stream.write(b"a")); // fails if the agent closed the connection
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Raises the limit of open files. This process and the agent, its child, hold 10,000 connections.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
