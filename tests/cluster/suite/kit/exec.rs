//! Commands and logs of a pod's containers.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, LogParams};
use tokio::io::AsyncReadExt as _;

use super::namespace::{TestNamespace, WAIT_TIMEOUT};

/// The result of a command in a container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExecOutput {
    /// True if the exit code is 0.
    pub(crate) succeeded: bool,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error, followed by the message of the exec status.
    pub(crate) stderr: String,
}

impl TestNamespace {
    /// Runs a command in a pod's container `client`.
    pub(crate) async fn exec(&self, pod: &str, command: &[&str]) -> Result<ExecOutput> {
        self.exec_in(pod, "client", command).await
    }

    /// Runs a command in a container of a pod.
    pub(crate) async fn exec_in(&self, pod: &str, container: &str, command: &[&str]) -> Result<ExecOutput> {
        let attach = AttachParams::default().container(container).stdout(true).stderr(true);
        let started = self.api::<Pod>().exec(pod, command.iter().copied(), &attach).await;
        let mut process = started.with_context(|| format!("cannot run {command:?} in pod {pod}"))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (process.stdout().context("no stdout")?, process.stderr().context("no stderr")?);
        let status = process.take_status().context("no status")?;
        let (read_out, read_err, status) =
            tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr), status);
        read_out.and(read_err).with_context(|| format!("cannot read the output of {command:?} in pod {pod}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let status = status.with_context(|| format!("{command:?} in pod {pod} ended without a status"))?;
        let succeeded = status.status.as_deref() == Some("Success");
        let message = status.message.filter(|_| !succeeded).unwrap_or_default();
        Ok(ExecOutput { succeeded, stdout: text(stdout), stderr: text(stderr) + &message })
    }

    /// Runs a command in a pod's container `client` and returns its stdout. Fails if the command fails.
    pub(crate) async fn run(&self, pod: &str, command: &[&str]) -> Result<String> {
        let output = self.exec(pod, command).await?;
        ensure!(output.succeeded, "{command:?} failed in pod {pod}: {}{}", output.stderr, output.stdout);
        Ok(output.stdout)
    }

    /// Gets a URL from a pod and returns the response body. Fails on HTTP errors, and after five seconds.
    pub(crate) async fn curl(&self, pod: &str, url: &str) -> Result<String> {
        self.run(pod, &["curl", "-gsSf", "--max-time", "5", url]).await
    }

    /// Returns the log of a container.
    pub(crate) async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        let params = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        Ok(self.api::<Pod>().logs(pod, &params).await?)
    }

    /// Waits until the log of a container contains a text, and returns the log.
    pub(crate) async fn wait_for_log(&self, pod: &str, container: &str, expected: &str) -> Result<String> {
        super::eventually(WAIT_TIMEOUT, "the log contains the text", async || {
            let log = self.logs(pod, container).await?;
            ensure!(log.contains(expected), "no {expected:?} in the log of {container} of pod {pod}: {log}");
            Ok(log)
        })
        .await
    }
}
