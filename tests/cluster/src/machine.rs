//! A running machine: its init, commands inside it, and its services.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;

use crate::cgroups;
use crate::init::READY;
use crate::layout::{ClusterName, Machine};
use crate::processes::{Mark, Process, until};

const INIT: &str = "init";
const PROGRAM: &str = "cluster";

/// A program that a machine keeps running.
#[derive(Clone, Debug)]
pub struct Service {
    /// What it is called by, which is the name of its file too.
    pub name: &'static str,
    /// Where its program is.
    pub program: PathBuf,
    /// What it is started with.
    pub arguments: Vec<String>,
}

/// A machine whose init runs.
#[derive(Clone, Debug)]
pub struct Running {
    cluster: ClusterName,
    machine: Machine,
    init: Pid,
}

impl Running {
    /// The machine, if it runs.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn find(cluster: &ClusterName, machine: Machine) -> Result<Option<Self>> {
        let Some(init) = Process::find(&Mark::new(cluster, machine, INIT), PROGRAM)? else { return Ok(None) };
        let running = Self { cluster: cluster.clone(), machine, init: init.pid };
        Ok(running.path(READY).exists().then_some(running))
    }

    /// The machine, started if it does not run.
    ///
    /// # Errors
    /// If it is not ready after ten seconds.
    pub fn start(cluster: &ClusterName, machine: Machine) -> Result<Self> {
        if let Some(running) = Self::find(cluster, machine)? {
            return Ok(running);
        }
        // What is left of one that was killed while it was made, or since.
        let mark = Mark::new(cluster, machine, INIT);
        Process::with(&mark)?.iter().try_for_each(Process::kill)?;
        cgroups::remove_machine(cluster, machine)?;
        cgroups::make(cluster, machine)?;
        let (variable, text) = mark.variable();
        let log = log(cluster, machine, INIT)?;
        let path = std::env::current_exe().context("cannot find this program")?;
        let started = Command::new(path)
            .args(["machine", "--name", &cluster.to_string(), &machine.to_string()])
            .env(variable, text)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cannot start a machine")?;
        let log = log_path(cluster, machine, INIT);
        ensure!(started.success(), "machine {machine} cannot be made: {}", last_line(&log));
        let ready = || Self::find(cluster, machine).is_ok_and(|running| running.is_some());
        ensure!(until(Duration::from_secs(10), ready), "machine {machine} is not ready: {}", last_line(&log));
        Self::find(cluster, machine)?.with_context(|| format!("machine {machine} ended"))
    }

    /// The process id of its init, which its namespaces go by.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// A file of the machine, as the host sees it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Its own folder in the cluster's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state(&self.cluster, self.machine)
    }

    /// A command to run inside the machine, with the services' cgroups.
    ///
    /// # Errors
    /// If the machine's cgroups cannot be found.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        // A shell moves itself into the cgroups, as the host sees them, before it enters the machine's namespaces.
        let script = r#"while [ "$1" != -- ]; do echo 0 >"$1" || exit 1; shift; done; shift; exec nsenter "$@""#;
        let target = self.init.to_string();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args(cgroups::service_files(&self.cluster, self.machine)?).arg("--");
        command.args(["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.arg(program.as_ref());
        Ok(command)
    }

    /// Runs a shell script inside the machine, from a folder that is there, and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error holds what it wrote.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("/bin/sh")?;
        let output = command.args(["-euc", script]).current_dir("/").output().context("cannot run a shell")?;
        text(&output).with_context(|| format!("on machine {}", self.machine))
    }

    /// Starts a service, unless it runs.
    ///
    /// # Errors
    /// If it cannot be started. That it ends soon is seen by whoever waits for what it does.
    pub fn start_service(&self, service: &Service) -> Result<()> {
        let mark = self.mark(service.name);
        // A program that was killed may have left one on its way to become the service.
        let on_its_way = |process: &Process| ["sh", "nsenter", "setsid"].contains(&process.program.as_str());
        until(Duration::from_secs(5), || Process::with(&mark).is_ok_and(|all| !all.iter().any(on_its_way)));
        if self.service(service.name)?.is_some() {
            return Ok(());
        }
        let (variable, value) = mark.variable();
        let mut log = log(&self.cluster, self.machine, service.name)?;
        writeln!(log, "--- {} {}", service.program.display(), service.arguments.join(" "))?;
        let mut command = self.command("setsid")?;
        command.arg("--fork").arg(&service.program).args(&service.arguments);
        command.env(variable, value).env("PATH", path()).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| format!("cannot start {}", service.name))?;
        ensure!(status.success(), "{} cannot be started on machine {}", service.name, self.machine);
        Ok(())
    }

    /// The process of a service, if it runs.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn service(&self, name: &str) -> Result<Option<Process>> {
        Process::find(&self.mark(name), name)
    }

    /// Kills a service, if it runs, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill_service(&self, name: &str) -> Result<()> {
        self.service(name)?.map_or(Ok(()), |process| process.kill())
    }

    fn mark(&self, service: &str) -> Mark {
        Mark::new(&self.cluster, self.machine, service)
    }
}

/// Where services look for programs: the folders of an administrator too.
fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// A machine's own folder in the cluster's state.
#[must_use]
pub fn state(cluster: &ClusterName, machine: Machine) -> PathBuf {
    cluster.state().join("machines").join(machine.to_string())
}

/// Where a service's output is kept.
#[must_use]
pub fn log_path(cluster: &ClusterName, machine: Machine, service: &str) -> PathBuf {
    cluster.state().join("logs").join(machine.to_string()).join(format!("{service}.log"))
}

fn log(cluster: &ClusterName, machine: Machine, service: &str) -> Result<File> {
    let path = log_path(cluster, machine, service);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let open = File::options().create(true).append(true).open(&path);
    open.with_context(|| format!("cannot write {}", path.display()))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().map_or_else(|| format!("see {}", log.display()), str::to_owned)
}

/// What a command printed, or an error with what it complained about.
///
/// # Errors
/// If it failed.
pub fn text(output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
