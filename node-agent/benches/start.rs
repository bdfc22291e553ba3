//! Measures the start of an agent on a node with 250 pods: the time until it serves links, and until every pod has its first
//! response. All pods request at the same time. The agent reads its saved state. Needs root, `ip` and `nft`.

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
#[path = "../../link/tests/namespaces/capabilities.rs"]
mod capabilities;
#[cfg(target_os = "linux")]
#[path = "../tests/links/client.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod client;
#[cfg(target_os = "linux")]
#[path = "../../link/tests/namespaces/kit.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod kit;
#[cfg(target_os = "linux")]
#[path = "../tests/links/node.rs"]
#[allow(dead_code, unused_imports, reason = "tests use the rest")]
mod node;
#[cfg(target_os = "linux")]
#[path = "../../link/tests/namespaces/runtime.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod runtime;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, ensure};
    use podmeta_link::netns::Netns;
    use podmeta_link::pod_link;
    use podmeta_link::range::LinkRange;
    use podmeta_link::service;

    use crate::client::{INSTANCE_ID, PodConnection};
    use crate::kit::{alias, pod};
    use crate::node::StoppedNode;

    const PODS: usize = 250;

    /// Number of measured starts. Each is on a new node.
    const ROUNDS: usize = 5;

    /// Durations from the start of the agent's process.
    struct StartTimes {
        /// Until it serves links.
        serving: Duration,
        /// Until every pod has its first response.
        all_responses: Duration,
    }

    pub(super) fn main() -> Result<()> {
        let rounds = (0..ROUNDS).map(|_| start()).collect::<Result<Vec<_>>>()?;
        print("serves links", rounds.iter().map(|round| round.serving).collect());
        print("every pod has its first response", rounds.iter().map(|round| round.all_responses).collect());
        Ok(())
    }

    fn start() -> Result<StartTimes> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stopped = runtime.block_on(StoppedNode::new(PODS, "httpPutResponseHopLimit: 1", ""));
        let pods = (0..PODS).map(|_| pod()).collect::<Vec<_>>();
        for (n, pod) in pods.iter().enumerate() {
            runtime.block_on(pod_link::ensure(&stopped.agent.netns, pod, &alias(n), LinkRange::default()))?;
        }
        let address = *service::addresses().first().context("no address")?;
        let start = Instant::now();
        let node = stopped.start();
        let serving = start.elapsed();
        let request = |pod: &Netns| pod.run(|| PodConnection::connect(address)?.get(INSTANCE_ID));
        let responses = std::thread::scope(|scope| {
            let threads = pods.iter().map(|pod| scope.spawn(move || request(pod))).collect::<Vec<_>>();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let all_responses = start.elapsed();
        for (n, response) in responses.into_iter().enumerate() {
            let response = response.with_context(|| format!("pod {n}"))?;
            ensure!(response == (200, node.instance_id(n, address).to_owned()), "pod {n}: {response:?}");
        }
        Ok(StartTimes { serving, all_responses })
    }

    fn print(name: &str, mut times: Vec<Duration>) {
        times.sort();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{PODS} pods, {name}: median {:.0} ms, at most {:.0} ms",
            milliseconds(times[times.len() / 2]),
            milliseconds(times[times.len() - 1])
        );
    }
}
