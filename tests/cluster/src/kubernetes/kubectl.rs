//! Runs `kubectl` with the rights of the cluster's administrator. The tests in `suite/` use the kube crate instead.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::layout::ClusterName;
use crate::machine::command_output;

/// `kubectl` of a cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Uses the `kubectl` in the directory `programs`, and the administrator's kubeconfig.
    #[must_use]
    pub fn new(programs: &Path, cluster: &ClusterName) -> Self {
        Self { program: programs.join("kubectl"), kubeconfig: cluster.state_dir().join("kubeconfig") }
    }

    /// Runs `kubectl` and returns its stdout.
    ///
    /// # Errors
    /// If it fails. The error contains its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("cannot run kubectl")?;
        command_output(&output).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// If the API server rejects a manifest.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifests.as_bytes())?;
        }
        command_output(&child.wait_with_output()?).context("kubectl apply").map(drop)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }
}
