//! Finds the processes of a cluster by a mark in their environment, so that nothing has to be written down that a kill at
//! the wrong moment could keep from being written.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::{ClusterName, Machine};

const VARIABLE: &str = "PODMETA_CLUSTER_PROCESS";

/// What a process of a cluster is; its children have the same mark, but not the same program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The cluster, the machine and the service.
    text: String,
}

impl Mark {
    /// The mark of a service of a machine.
    #[must_use]
    pub fn new(cluster: &ClusterName, machine: Machine, service: &str) -> Self {
        Self { text: format!("{cluster}/{machine}/{service}") }
    }

    /// The variable to start it with.
    #[must_use]
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.text)
    }
}

/// A process that has a mark.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id, as the machine sees it.
    pub pid: Pid,
    mark: String,
    /// The name that it was called by.
    pub program: String,
}

impl Process {
    /// Every process that has a mark of the cluster, whatever it runs.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn of(cluster: &ClusterName) -> Result<Vec<Self>> {
        let prefix = format!("{cluster}/");
        Ok(all()?.into_iter().filter(|process| process.mark.starts_with(&prefix)).collect())
    }

    /// The process that is the service itself, and none of its children: the one that runs `program`.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn find(mark: &Mark, program: &str) -> Result<Option<Self>> {
        Ok(Self::with(mark)?.into_iter().find(|process| process.program == program))
    }

    /// Every process with this very mark.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn with(mark: &Mark) -> Result<Vec<Self>> {
        Ok(all()?.into_iter().filter(|process| process.mark == mark.text).collect())
    }

    /// Its machine and service, such as `a/kubelet`.
    #[must_use]
    pub fn role(&self) -> &str {
        self.mark.split_once('/').map_or("", |(_, role)| role)
    }

    /// Sends it a signal; none if it is gone already.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(why) => Err(why).with_context(|| format!("cannot send {signal} to {} ({})", self.pid, self.mark)),
        }
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// If it is still there after ten seconds.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let gone = || !fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|environment| !environment.is_empty());
        ensure!(until(Duration::from_secs(10), gone), "{} ({}) does not end", self.pid, self.mark);
        Ok(())
    }
}

/// Asks until it is so, or the time is over: whether it came to be.
pub fn until(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn all() -> Result<Vec<Process>> {
    let folders = fs::read_dir("/proc").context("cannot read /proc")?;
    let numbers = folders.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(numbers.filter_map(read).collect())
}

/// A process with its mark. None if it has no mark, or ended meanwhile.
fn read(number: i32) -> Option<Process> {
    let folder = Path::new("/proc").join(number.to_string());
    let environment = fs::read(folder.join("environ")).ok()?;
    let mark = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| std::str::from_utf8(variable).ok()?.strip_prefix(VARIABLE)?.strip_prefix('='))?;
    let command = fs::read(folder.join("cmdline")).ok()?;
    let program = std::str::from_utf8(command.split(|byte| *byte == 0).next()?).ok()?;
    let program = Path::new(program).file_name()?.to_str()?.to_owned();
    Some(Process { pid: Pid::from_raw(number), mark: mark.to_owned(), program })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_marked_process_is_found_by_its_service_and_program_and_is_gone_when_killed() {
        let cluster: ClusterName = "unit".parse().unwrap();
        let mark = Mark::new(&cluster, Machine::ControlPlane, "waiter");
        let (variable, text) = mark.variable();
        let mut child = Command::new("cat").env(variable, text).stdin(Stdio::piped()).spawn().unwrap();
        assert!(until(Duration::from_secs(10), || Process::find(&mark, "cat").unwrap().is_some()));
        let found = Process::find(&mark, "cat").unwrap().unwrap();
        assert_eq!((found.pid.as_raw(), found.role()), (i32::try_from(child.id()).unwrap(), "control-plane/waiter"));
        assert!(Process::find(&mark, "dog").unwrap().is_none());
        assert!(Process::of(&"un".parse().unwrap()).unwrap().is_empty(), "another cluster");
        found.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(Process::find(&mark, "cat").unwrap().is_none());
    }
}
