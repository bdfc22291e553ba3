//! The operator process under test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::SYSTEM_NAMESPACE;

pub(super) const OPERATOR_ADDRESS: &str = "127.0.0.1:19443";
const ADMIN_ADDRESS: &str = "127.0.0.1:19080";
/// Timeout until the operator is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// An operator process. It is killed when dropped.
pub(super) struct OperatorProcess(Child);

impl OperatorProcess {
    pub(super) fn start(kubeconfig: &str) -> Result<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/podmeta-operator");
        let child = Command::new(program)
            .env("KUBECONFIG", kubeconfig)
            .args([
                "run",
                "--listen",
                OPERATOR_ADDRESS,
                "--admin-listen",
                ADMIN_ADDRESS,
                "--namespace",
                SYSTEM_NAMESPACE,
                "--identity",
                "fleet",
            ])
            .args(["--address", "127.0.0.1", "--log", "warn"])
            .spawn();
        child
            .map(Self)
            .with_context(|| format!("cannot run {program}: cargo build --release --package podmeta-operator"))
    }

    pub(super) async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                bail!("the operator exited: {status}");
            }
            let request = tokio::process::Command::new("curl")
                .args(["-sf", "--max-time", "1", &format!("http://{ADMIN_ADDRESS}/readyz")])
                .stdout(Stdio::null())
                .status();
            if request.await?.success() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the operator is not ready after {} s", READY_TIMEOUT.as_secs())
    }

    /// Returns resident memory in MiB and CPU time in seconds.
    pub(super) fn usage(&self) -> Result<(u64, f64)> {
        let dir = format!("/proc/{}", self.0.id());
        let status = std::fs::read_to_string(format!("{dir}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
        let stat = std::fs::read_to_string(format!("{dir}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat has no program name")?.1.split(' ').collect();
        let ticks =
            |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat has no CPU time")?.parse::<f64>()?) };
        Ok((kib / 1024, (ticks(11)? + ticks(12)?) / 100.0))
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop).context("cannot wait for the operator")
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}
