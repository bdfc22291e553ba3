//! Time that the CNI plugin adds to the start of a pod: the program runs as the container runtime starts it, one pod at a
//! time, or 250 in parallel. Needs root and `ip`. Everything is made in namespaces of the process and ends with it.

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the CNI plugin runs on Linux only");
}

#[cfg(target_os = "linux")]
#[path = "shared/node.rs"]
mod node;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use anyhow::{Result, ensure};
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::{TimeVal, TimeValLike as _};

    use crate::node::{self, BenchPod, NETNS_DIR, milliseconds, pod};

    const PROGRAM: &str = env!("CARGO_BIN_EXE_podmeta-cni");

    /// Pods that start at the same time.
    const PARALLEL_PODS: u32 = 250;

    /// Pods that start one after another.
    const SEQUENTIAL_PODS: u32 = 200;

    /// The entry of the plugin with the result of the previous one.
    const CONFIG: &str =
        r#"{"cniVersion":"1.0.0","name":"pods","type":"podmeta-cni","prevResult":{"cniVersion":"1.0.0"}}"#;

    pub(super) fn main() -> Result<()> {
        node::enter()?;
        let config = Path::new(NETNS_DIR).join("config");
        std::fs::write(&config, CONFIG)?;
        // The first pod of a node also makes the guards and the agent namespace.
        add(&pod(0)?, &config)?;
        let starts = (0..SEQUENTIAL_PODS).map(|_| version(&config)).collect::<Result<Vec<_>>>()?;
        print("start of the program only (VERSION)", starts);
        let pods = (1..=SEQUENTIAL_PODS).map(pod).collect::<Result<Vec<_>>>()?;
        let before = processor_time()?;
        let alone = pods.iter().map(|pod| add(pod, &config)).collect::<Result<Vec<_>>>()?;
        let used = processor_time()?.saturating_sub(before);
        print("ADD, one pod at a time", alone);
        println!("ADD, one pod at a time: {:.1} ms of a processor", milliseconds(used) / f64::from(SEQUENTIAL_PODS));
        let pods = (SEQUENTIAL_PODS + 1..=SEQUENTIAL_PODS + PARALLEL_PODS).map(pod).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        let times = std::thread::scope(|scope| {
            let threads = pods.iter().map(|pod| scope.spawn(|| add(pod, &config))).collect::<Vec<_>>();
            let join =
                |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|_| Ok(Duration::MAX));
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let total = start.elapsed();
        print("ADD, 250 pods at the same time", times);
        println!("250 pods at the same time: {:.0} ms in total", milliseconds(total));
        Ok(())
    }

    /// Runs the plugin for a new pod and returns the time that it took.
    fn add(pod: &BenchPod, config: &Path) -> Result<Duration> {
        // The start of the ID names the link.
        let sandbox = format!("{:08x}{:056}", pod.n, 0);
        let mut command = Command::new(PROGRAM);
        command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", sandbox).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", &pod.path).env("CNI_ARGS", format!("K8S_POD_UID=uid-{};K8S_POD_NAME=p", pod.n));
        run(command, config)
    }

    fn version(config: &Path) -> Result<Duration> {
        let mut command = Command::new(PROGRAM);
        command.env("CNI_COMMAND", "VERSION");
        run(command, config)
    }

    fn run(mut command: Command, config: &Path) -> Result<Duration> {
        command.stdin(File::open(config)?).stderr(Stdio::inherit());
        let start = Instant::now();
        let output = command.output()?;
        let time = start.elapsed();
        ensure!(output.status.success(), "the plugin failed: {}", String::from_utf8_lossy(&output.stdout));
        Ok(time)
    }

    fn print(name: &str, mut times: Vec<Duration>) {
        times.sort();
        let at = |percent: usize| times.get((times.len() - 1) * percent / 100).copied().unwrap_or_default();
        println!("{name}: p50 {:.1} ms, p99 {:.1} ms", milliseconds(at(50)), milliseconds(at(99)));
    }

    /// Returns the processor time of all child processes that have ended.
    fn processor_time() -> Result<Duration> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let duration = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
        Ok(duration(usage.user_time()) + duration(usage.system_time()))
    }
}
