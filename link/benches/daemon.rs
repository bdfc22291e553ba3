//! The link daemon on a node with 1,000 pods: the time until it is ready if it makes all links, and if it finds them after a
//! restart; its processor time and memory at rest. The uplink guard is on. The container runtime is that of the tests. Needs root,
//! `ip` and `nft`. Everything is made in namespaces of the process and ends with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "shared with tests, which fail by a panic"
)]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the link daemon runs on Linux only");
}

#[cfg(target_os = "linux")]
#[path = "shared/node.rs"]
mod node;
#[cfg(target_os = "linux")]
#[path = "../tests/namespaces/runtime.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod runtime;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, ensure};

    use crate::node::{self, BenchPod, milliseconds, pod};
    use crate::runtime::{FakeRuntime, FakeSandbox};

    const PROGRAM: &str = env!("CARGO_BIN_EXE_podmeta-link");

    const PODS: u32 = 1000;

    /// Duration of the measurement at rest.
    const REST: Duration = Duration::from_secs(60);

    /// Maximum wait for the daemon.
    const READY_TIMEOUT: Duration = Duration::from_secs(120);

    /// Index of the time in user mode in `/proc/PID/stat`, after the name. The time in the kernel follows.
    const USER_TIME_FIELD: usize = 11;

    const RUNTIME_SOCKET: &str = "/run/runtime.sock";
    const CNI_CONFIG_DIR: &str = "/run/net.d";
    const READY_FILE: &str = "/run/podmeta/link/ready";

    const CONFLIST: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;

    pub(super) fn main() -> Result<()> {
        node::enter()?;
        fs::create_dir(CNI_CONFIG_DIR)?;
        fs::write(Path::new(CNI_CONFIG_DIR).join("10-pods.conflist"), CONFLIST)?;
        let pods = (0..PODS).map(pod).collect::<Result<Vec<_>>>()?;
        let sandboxes = pods.iter().map(sandbox).collect::<Result<_>>()?;
        add_uplink()?;
        let _runtime = FakeRuntime { sandboxes, ..FakeRuntime::default() }.serve(Path::new(RUNTIME_SOCKET));
        install()?;
        for name in ["start that makes all links", "restart with all links"] {
            let start = Instant::now();
            let daemon = DaemonProcess::start()?;
            daemon.wait_until_ready()?;
            let time = start.elapsed();
            println!(
                "{name}, {PODS} pods: ready after {:.0} ms, {:.0} ms of a processor",
                milliseconds(time),
                milliseconds(daemon.processor_time()?)
            );
        }
        let daemon = DaemonProcess::start()?;
        daemon.wait_until_ready()?;
        let before = daemon.processor_time()?;
        sleep(REST);
        let used = daemon.processor_time()?.saturating_sub(before);
        println!(
            "at rest, {PODS} links: {:.2} ms of a processor in a second, {} in memory",
            milliseconds(used) / REST.as_secs_f64(),
            daemon.memory()?
        );
        Ok(())
    }

    fn sandbox(pod: &BenchPod) -> Result<FakeSandbox> {
        let n = usize::try_from(pod.n)?;
        Ok(FakeSandbox { netns: Some(pod.path.clone()), ..FakeSandbox::host(n) })
    }

    /// Creates the interface of the default route, which the uplink guard protects.
    fn add_uplink() -> Result<()> {
        for line in [
            "link add up0 type veth peer name up1",
            "addr add 203.0.113.1/24 dev up0",
            "link set up0 up",
            "route add default dev up0",
        ] {
            let status = Command::new("ip").args(line.split(' ')).status()?;
            ensure!(status.success(), "ip {line}: {status}");
        }
        Ok(())
    }

    fn install() -> Result<()> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["install", "--log=warn", "--uplink-guard", "--cni-bin-dir=/run", "--plugin"])
            .arg(env!("CARGO_BIN_EXE_podmeta-cni"));
        let status = command.status()?;
        ensure!(status.success(), "podmeta-link install: {status}");
        Ok(())
    }

    /// A running daemon. It is killed on drop.
    struct DaemonProcess(Child);

    impl DaemonProcess {
        fn start() -> Result<Self> {
            let mut command = Command::new(PROGRAM);
            command.args([
                "run",
                "--log=warn",
                "--uplink-guard",
                "--release=podmeta",
                "--release-namespace=podmeta-system",
            ]);
            command.arg(format!("--runtime-socket={RUNTIME_SOCKET}"));
            command.arg(format!("--cni-config-dir={CNI_CONFIG_DIR}"));
            command.arg(format!("--ready-file={READY_FILE}"));
            // The file of an earlier daemon.
            drop(fs::remove_file(READY_FILE));
            Ok(Self(command.stdin(Stdio::null()).spawn()?))
        }

        fn wait_until_ready(&self) -> Result<()> {
            let deadline = Instant::now() + READY_TIMEOUT;
            while !Path::new(READY_FILE).exists() {
                ensure!(Instant::now() < deadline, "the daemon is not ready after {} s", READY_TIMEOUT.as_secs());
                sleep(Duration::from_millis(1));
            }
            Ok(())
        }

        /// Returns the processor time, also of threads that have ended. The kernel reports it in steps of 10 ms.
        fn processor_time(&self) -> Result<Duration> {
            let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
            // The second field, the name in parentheses, can contain spaces.
            let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat has no name")?;
            let ticks = fields.split_whitespace().skip(USER_TIME_FIELD).take(2).map(str::parse::<u64>);
            Ok(Duration::from_millis(ticks.sum::<Result<u64, _>>()? * 10))
        }

        /// Returns the resident memory, as the kernel prints it.
        fn memory(&self) -> Result<String> {
            let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            Ok(line.context("no VmRSS")?.trim().to_owned())
        }
    }

    impl Drop for DaemonProcess {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}
