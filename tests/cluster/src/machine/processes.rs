//! Finds the processes of a cluster by a tag in their environment. No PID files are needed, which an interrupted command
//! could leave out of date.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::{ClusterName, MachineName};

/// The environment variable that holds the tag.
const TAG_VARIABLE: &str = "PODMETA_CLUSTER_PROCESS";
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Identifies a service of a machine. Child processes inherit the tag, but run other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessTag {
    /// `{cluster}/{machine}/{service}`.
    text: String,
}

impl ProcessTag {
    /// Returns the tag of a service of a machine.
    #[must_use]
    pub fn new(cluster: &ClusterName, machine: MachineName, service: &str) -> Self {
        Self { text: format!("{cluster}/{machine}/{service}") }
    }

    /// Returns the environment variable, and its value, to start the service with.
    #[must_use]
    pub fn variable(&self) -> (&'static str, &str) {
        (TAG_VARIABLE, &self.text)
    }
}

/// A process with a tag.
#[derive(Clone, Debug)]
pub struct ClusterProcess {
    /// The process ID in the host's PID namespace.
    pub pid: Pid,
    tag: String,
    /// The file name of the program, from the command line.
    pub program: String,
}

impl ClusterProcess {
    /// Returns all processes of a cluster.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn all_of(cluster: &ClusterName) -> Result<Vec<Self>> {
        let prefix = format!("{cluster}/");
        Ok(tagged_processes()?.into_iter().filter(|process| process.tag.starts_with(&prefix)).collect())
    }

    /// Returns the process of a service: the one with this tag that runs `program`, and not a child of it.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn find(tag: &ProcessTag, program: &str) -> Result<Option<Self>> {
        Ok(Self::with_tag(tag)?.into_iter().find(|process| process.program == program))
    }

    /// Returns all processes with a tag.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn with_tag(tag: &ProcessTag) -> Result<Vec<Self>> {
        Ok(tagged_processes()?.into_iter().filter(|process| process.tag == tag.text).collect())
    }

    /// Returns machine and service, such as `a/kubelet`.
    #[must_use]
    pub fn role(&self) -> &str {
        self.tag.split_once('/').map_or("", |(_, role)| role)
    }

    /// Sends a signal. Succeeds if the process has ended.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {} ({})", self.pid, self.tag)),
        }
    }

    /// Kills the process and waits until it has ended.
    ///
    /// # Errors
    /// If it exists after ten seconds.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        // The environment of a zombie is empty.
        let has_ended =
            || !fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|environment| !environment.is_empty());
        ensure!(poll_until(Duration::from_secs(10), has_ended), "process {} ({}) does not end", self.pid, self.tag);
        Ok(())
    }
}

/// Polls until `condition` is true. Returns false after the timeout.
pub fn poll_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn tagged_processes() -> Result<Vec<ClusterProcess>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(read_process).collect())
}

/// Returns a process, or `None` if it has no tag or has ended.
fn read_process(pid: i32) -> Option<ClusterProcess> {
    let dir = Path::new("/proc").join(pid.to_string());
    let environment = fs::read(dir.join("environ")).ok()?;
    let tag = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| std::str::from_utf8(variable).ok()?.strip_prefix(TAG_VARIABLE)?.strip_prefix('='))?;
    let command_line = fs::read(dir.join("cmdline")).ok()?;
    let program = std::str::from_utf8(command_line.split(|byte| *byte == 0).next()?).ok()?;
    let program = Path::new(program).file_name()?.to_str()?.to_owned();
    Some(ClusterProcess { pid: Pid::from_raw(pid), tag: tag.to_owned(), program })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tagged_process_is_found_until_it_is_killed() {
        let cluster: ClusterName = "unit".parse().unwrap();
        let tag = ProcessTag::new(&cluster, MachineName::ControlPlane, "waiter");
        let (variable, value) = tag.variable();
        let mut child = Command::new("cat").env(variable, value).stdin(Stdio::piped()).spawn().unwrap();
        assert!(poll_until(Duration::from_secs(10), || ClusterProcess::find(&tag, "cat").unwrap().is_some()));
        let found = ClusterProcess::find(&tag, "cat").unwrap().unwrap();
        assert_eq!((found.pid.as_raw(), found.role()), (i32::try_from(child.id()).unwrap(), "control-plane/waiter"));
        assert!(ClusterProcess::find(&tag, "dog").unwrap().is_none());
        assert!(ClusterProcess::all_of(&"un".parse().unwrap()).unwrap().is_empty(), "another cluster");
        found.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(ClusterProcess::find(&tag, "cat").unwrap().is_none());
    }
}
