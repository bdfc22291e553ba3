//! Requests through a link: the node agent beside a bare hyper server that returns the same bytes. Each one serves an agent
//! namespace of its own with the link of one pod. The client is in the namespace of that pod. Needs root, `ip` and `nft`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "shared with tests, which fail by a panic"
)]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("links exist on Linux only");
}

#[cfg(target_os = "linux")]
#[path = "../../benches/src/baseline.rs"]
#[allow(dead_code, reason = "other benchmarks use the rest")]
mod baseline;
#[cfg(target_os = "linux")]
#[path = "../../link/tests/namespaces/capabilities.rs"]
mod capabilities;
#[cfg(target_os = "linux")]
#[path = "../../link/tests/namespaces/kit.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod kit;
#[cfg(target_os = "linux")]
#[path = "../../benches/src/load.rs"]
#[allow(dead_code, reason = "other benchmarks use the rest")]
mod load;
#[cfg(target_os = "linux")]
#[path = "../tests/links/node.rs"]
#[allow(dead_code, unused_imports, reason = "tests use the rest")]
mod node;
#[cfg(target_os = "linux")]
#[path = "../../benches/src/requests.rs"]
#[allow(dead_code, reason = "other benchmarks use the rest")]
mod requests;
#[cfg(target_os = "linux")]
#[path = "../../link/tests/namespaces/runtime.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod runtime;
#[cfg(target_os = "linux")]
#[path = "../../benches/src/statistics.rs"]
#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest; its tests do not run here")]
mod statistics;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, BufRead as _, BufReader, Write as _};
    use std::net::{Ipv6Addr, SocketAddr};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use anyhow::{Context as _, Result, ensure};
    use podmeta_link::netns::Netns;
    use podmeta_link::pod_link;
    use podmeta_link::range::LinkRange;
    use podmeta_link::service::{self, SERVICE_PORT};

    use crate::baseline::{self, RecordedResponse, ThreadArrangement};
    use crate::kit::{Agent, alias, pod};
    use crate::load::{RequestPattern, load};
    use crate::node::ServingNode;
    use crate::requests::{self, RequestKind};
    use crate::statistics::{Measurement, Spread};

    /// Argument with which the benchmark starts itself as the bare server.
    const BASELINE: &str = "baseline";

    /// Rounds of each measurement. Both servers are loaded in turn.
    const ROUNDS: usize = 5;

    /// Duration of one measurement.
    const TIME: Duration = Duration::from_secs(5);

    const CONNECTIONS: [usize; 3] = [1, 16, 64];

    pub(super) fn main() -> Result<()> {
        if std::env::args().nth(1).as_deref() == Some(BASELINE) {
            let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT));
            return baseline::main(ThreadArrangement::OneWorker, listen);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let node = runtime.block_on(ServingNode::start(1));
        let agent_pod = pod();
        runtime.block_on(node.make_link(&agent_pod, 0, LinkRange::default()));
        let address = SocketAddr::from((service::ipv4().first().copied().context("no address")?, SERVICE_PORT));
        let (pattern, recorded) = record(&agent_pod, address)?;

        let bare = runtime.block_on(Agent::new());
        let bare_pod = pod();
        runtime.block_on(pod_link::ensure(&bare.netns, &bare_pod, &alias(0), LinkRange::default()))?;
        let _server = BareServer::start(&bare, &recorded)?;

        println!("{ROUNDS} rounds of {} s, both servers in turn. Median (lower to upper quartile).\n", TIME.as_secs());
        println!("| connections | server | requests/s | ratio | p50 µs | p99 µs | ratio |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for connections in CONNECTIONS {
            let (mut of_bare, mut of_agent) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                of_bare.push(measure(&bare_pod, address, &pattern, connections)?);
                of_agent.push(measure(&agent_pod, address, &pattern, connections)?);
            }
            print_row(connections, "bare server", &of_bare, &of_bare);
            print_row(connections, "**agent**", &of_agent, &of_bare);
        }
        Ok(())
    }

    /// Runs a function in a namespace.
    fn in_netns<T: Send>(netns: &Netns, function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        Ok(netns.run(|| function().map_err(io::Error::other))?)
    }

    /// Returns the request of one item with a token, and the agent's response.
    fn record(pod: &Netns, address: SocketAddr) -> Result<(RequestPattern, RecordedResponse)> {
        in_netns(pod, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let pattern = RequestKind::Leaf.pattern(&requests::token(address).await?);
                let RequestPattern::Persistent(request) = &pattern else { anyhow::bail!("not one request") };
                let response = requests::send(address, requests::LEAF, request).await?;
                Ok((pattern, response))
            })
        })
    }

    fn measure(pod: &Netns, address: SocketAddr, pattern: &RequestPattern, connections: usize) -> Result<Measurement> {
        let load = in_netns(pod, || load(address, pattern, connections, TIME, Duration::ZERO))?;
        ensure!(load.rejected == 0, "{} responses have a status other than 200", load.rejected);
        Ok(Measurement::new(&load, Duration::ZERO))
    }

    fn print_row(connections: usize, server: &str, rounds: &[Measurement], bare: &[Measurement]) {
        let spread = |rounds: &[Measurement], of: fn(&Measurement) -> f64| Spread::of(rounds.iter().map(of));
        let ratio = |of: fn(&Measurement) -> f64| spread(rounds, of).median / spread(bare, of).median;
        let (per_second, p99) = (spread(rounds, |round| round.per_second), spread(rounds, |round| round.p99_us));
        println!(
            "| {connections} | {server} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.1} | {:.1} ({:.1} to {:.1}) | {:.2} |",
            per_second.median,
            per_second.lower_quartile,
            per_second.upper_quartile,
            ratio(|round| round.per_second),
            spread(rounds, |round| round.p50_us).median,
            p99.median,
            p99.lower_quartile,
            p99.upper_quartile,
            ratio(|round| round.p99_us),
        );
    }

    /// The bare server in an agent namespace. It is killed on drop.
    struct BareServer(Child);

    impl BareServer {
        fn start(agent: &Agent, response: &RecordedResponse) -> Result<Self> {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(BASELINE).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut server = Self(agent.netns.run(|| command.spawn())?);
            let mut stdin = server.0.stdin.take().context("the server has no standard input")?;
            stdin.write_all(&serde_json::to_vec(&[response])?)?;
            drop(stdin);
            let mut stdout = BufReader::new(server.0.stdout.take().context("the server has no standard output")?);
            // It prints its address as soon as it listens.
            ensure!(stdout.read_line(&mut String::new())? > 0, "the bare server did not start");
            server.0.stdout = Some(stdout.into_inner());
            Ok(server)
        }
    }

    impl Drop for BareServer {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}
