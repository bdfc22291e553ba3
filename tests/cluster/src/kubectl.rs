//! `kubectl` for the program that makes clusters; tests use a client of their own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::layout::ClusterName;
use crate::machine::text;

/// A cluster's own `kubectl`.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    /// The `kubectl` of a cluster's administrator.
    #[must_use]
    pub fn new(programs: &Path, cluster: &ClusterName) -> Self {
        Self { program: programs.join("kubectl"), config: cluster.state().join("kubeconfig") }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error holds what it wrote.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("cannot run kubectl")?;
        text(&output).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(manifests.as_bytes())?;
        }
        text(&child.wait_with_output()?).context("kubectl apply").map(drop)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.config).args(arguments);
        command
    }
}
