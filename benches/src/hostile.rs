//! What clients that mean harm do to another pod, and what they cost the agent: ten thousand heads that never end, and
//! tokens on new connections without end. A plain flood has a table of its own, beside the floor.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Plan;
use crate::figures::Spread;
use crate::load::load;
use crate::pods::{Folder, Limits};
use crate::process::Server;
use crate::work::{Work, token};

const PODS: usize = 41;
const CONNECTIONS_A_POD: usize = 250;
const CLIENTS: usize = 64;
const PACE: Duration = Duration::from_millis(5);
/// The attack is on for this long before the other pod is measured.
const HEAD_START: Duration = Duration::from_secs(1);

/// What the pods but the last do.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Forty pods hold 250 connections each and send a byte of a head on each of them every second.
    SlowHeads,
    /// One pod asks for a token, then for an item, each on a new connection, from 64 clients at once.
    NewConnections,
}

/// What one round showed.
struct Round {
    quiet: f64,
    attacked: f64,
    before: f64,
    during: f64,
    cores: f64,
}

/// Prints it.
pub(crate) fn all(plan: &Plan, folder: &Folder) -> Result<()> {
    raise_file_limit()?;
    println!("\n## Clients that mean harm, and another pod\n");
    println!("| attack | p99 µs in quiet | p99 µs meanwhile | ratio | resident KiB before | meanwhile | CPU, cores |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (attack, name) in [
        (Attack::SlowHeads, "10,000 connections, a byte a second on each"),
        (Attack::NewConnections, "64 clients, tokens on new connections"),
    ] {
        let rounds = (0..plan.rounds).map(|_| round(attack, plan, folder)).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of)).median;
        let (quiet, attacked) = (median(|round| round.quiet), median(|round| round.attacked));
        println!(
            "| {name} | {quiet:.0} | {attacked:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            attacked / quiet,
            median(|round| round.before),
            median(|round| round.during),
            median(|round| round.cores),
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "KiB are far below 2^52")]
fn round(attack: Attack, plan: &Plan, folder: &Folder) -> Result<Round> {
    let server = Server::agent(&folder.pods(PODS, Limits::Default)?, &["--log", &plan.log])?;
    let (asking, attacking) = server.addresses.split_last().context("there are too few pods")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shape = Work::Leaf.shape(&runtime.block_on(token(*asking))?);
    let ask = || load(*asking, &shape, 1, plan.time, PACE);
    let quiet = ask()?.quantile(0.99);
    let before = server.resident()?.all as f64;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack.run(attacking, plan.time, &over));
        let measured = (|| {
            std::thread::sleep(HEAD_START);
            let (started, used) = (Instant::now(), server.processor_time()?);
            let attacked = ask()?.quantile(0.99);
            let cores = server.processor_time()?.saturating_sub(used).as_secs_f64() / started.elapsed().as_secs_f64();
            Ok(Round { quiet, attacked, before, during: server.resident()?.all as f64, cores })
        })();
        over.store(true, Ordering::Relaxed); // whatever was measured, or the attack has no end
        attacker.join().ok().context("the attack panicked")??;
        measured
    })
}

impl Attack {
    fn run(self, pods: &[SocketAddr], time: Duration, over: &AtomicBool) -> Result<()> {
        match self {
            Self::SlowHeads => slow_heads(pods, over),
            Self::NewConnections => {
                let pod = *pods.first().context("there are too few pods")?;
                let first = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(token(pod))?;
                load(pod, &Work::TokenThenLeaf.shape(&first), CLIENTS, HEAD_START + time, Duration::ZERO).map(drop)
            }
        }
    }
}

fn slow_heads(pods: &[SocketAddr], over: &AtomicBool) -> Result<()> {
    let mut streams = Vec::new();
    for pod in pods {
        for _ in 0..CONNECTIONS_A_POD {
            let mut stream = TcpStream::connect(pod)?;
            stream.write_all(b"GET /latest/ HTTP/1.1\r\nX-Slow: ")?;
            streams.push(stream);
        }
    }
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_secs(1);
        for stream in &mut streams {
            drop(stream.write(b"a")); // a connection that the agent closed meanwhile is one less
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Both ends of every connection are of this program and its child.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot open as many files as this needs")
}
