//! A running machine: its init process, commands inside it, and its services.

pub mod cgroups;
pub mod init;
pub mod processes;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;

use crate::layout::{ClusterName, MachineName};
use init::READY_FILE;
use processes::{ClusterProcess, ProcessTag, poll_until};

const INIT_SERVICE: &str = "init";
/// The file name of this program, which is also the init program of machines.
const PROGRAM: &str = "cluster";
/// Timeout until a started machine is ready.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that runs in the background on a machine.
#[derive(Clone, Debug)]
pub struct MachineService {
    /// The service's name, which is also the file name of its program.
    pub name: &'static str,
    /// The path of the program.
    pub program: PathBuf,
    /// The arguments of the program.
    pub arguments: Vec<String>,
}

/// A machine whose init process runs.
#[derive(Clone, Debug)]
pub struct RunningMachine {
    cluster: ClusterName,
    name: MachineName,
    init: Pid,
}

impl RunningMachine {
    /// Returns the machine if it runs and is ready.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn find(cluster: &ClusterName, name: MachineName) -> Result<Option<Self>> {
        let tag = ProcessTag::new(cluster, name, INIT_SERVICE);
        let Some(init) = ClusterProcess::find(&tag, PROGRAM)? else { return Ok(None) };
        let machine = Self { cluster: cluster.clone(), name, init: init.pid };
        Ok(machine.path(READY_FILE).exists().then_some(machine))
    }

    /// Returns the machine. Starts it if it does not run.
    ///
    /// # Errors
    /// If it cannot be started, or is not ready after ten seconds.
    pub fn start(cluster: &ClusterName, name: MachineName) -> Result<Self> {
        if let Some(machine) = Self::find(cluster, name)? {
            return Ok(machine);
        }
        // Remove processes and cgroups of a machine that was killed.
        let tag = ProcessTag::new(cluster, name, INIT_SERVICE);
        ClusterProcess::with_tag(&tag)?.iter().try_for_each(ClusterProcess::kill)?;
        cgroups::remove_machine(cluster, name)?;
        cgroups::create(cluster, name)?;
        let (variable, value) = tag.variable();
        let log = open_log(cluster, name, INIT_SERVICE)?;
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let status = Command::new(program)
            .args(["machine", "--name", &cluster.to_string(), &name.to_string()])
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("cannot start machine {name}"))?;
        let log = log_path(cluster, name, INIT_SERVICE);
        ensure!(status.success(), "cannot start machine {name}: {}", last_line(&log));
        let is_ready = || Self::find(cluster, name).is_ok_and(|machine| machine.is_some());
        ensure!(poll_until(START_TIMEOUT, is_ready), "machine {name} is not ready: {}", last_line(&log));
        Self::find(cluster, name)?.with_context(|| format!("machine {name} ended after its start"))
    }

    /// Returns the process ID of the machine's init, in the host's PID namespace.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// Returns the host's path of a file of the machine.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Returns the machine's state directory on the host.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.cluster, self.name)
    }

    /// Returns a command that runs inside the machine, in the cgroups of its services.
    ///
    /// # Errors
    /// If the host has no cgroup hierarchies.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        // The shell moves itself into the cgroups before it enters the namespaces, because the paths are those of the host.
        let script = r#"while [ "$1" != -- ]; do echo 0 >"$1" || exit 1; shift; done; shift; exec nsenter "$@""#;
        let target = self.init.to_string();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args(cgroups::service_procs_files(&self.cluster, self.name)?).arg("--");
        command.args(["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.arg(program.as_ref());
        Ok(command)
    }

    /// Runs a shell script inside the machine, in its root directory. Returns stdout.
    ///
    /// # Errors
    /// If the script fails. The error contains its output.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("/bin/sh")?;
        let output = command.args(["-euc", script]).current_dir("/").output().context("cannot run /bin/sh")?;
        command_output(&output).with_context(|| format!("on machine {}", self.name))
    }

    /// Starts a service unless it runs.
    ///
    /// # Errors
    /// If the program cannot be started. A program that exits later causes no error here.
    pub fn start_service(&self, service: &MachineService) -> Result<()> {
        let tag = self.tag(service.name);
        // An earlier `up` that was killed may have left a process that is about to become the service.
        let is_launcher = |process: &ClusterProcess| ["sh", "nsenter", "setsid"].contains(&process.program.as_str());
        poll_until(Duration::from_secs(5), || {
            ClusterProcess::with_tag(&tag).is_ok_and(|processes| !processes.iter().any(is_launcher))
        });
        if self.find_service(service.name)?.is_some() {
            return Ok(());
        }
        let (variable, value) = tag.variable();
        let mut log = open_log(&self.cluster, self.name, service.name)?;
        writeln!(log, "--- {} {}", service.program.display(), service.arguments.join(" "))?;
        let mut command = self.command("setsid")?;
        command.arg("--fork").arg(&service.program).args(&service.arguments);
        command.env(variable, value).env("PATH", service_path()).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| format!("cannot start {}", service.name))?;
        ensure!(status.success(), "cannot start {} on machine {}: {status}", service.name, self.name);
        Ok(())
    }

    /// Kills a service, if it runs, and waits until it has ended.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill_service(&self, name: &str) -> Result<()> {
        self.find_service(name)?.map_or(Ok(()), |process| process.kill())
    }

    /// True if the service runs.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn is_running(&self, name: &str) -> Result<bool> {
        Ok(self.find_service(name)?.is_some())
    }

    fn find_service(&self, name: &str) -> Result<Option<ClusterProcess>> {
        ClusterProcess::find(&self.tag(name), name)
    }

    fn tag(&self, service: &str) -> ProcessTag {
        ProcessTag::new(&self.cluster, self.name, service)
    }
}

/// Returns the `PATH` of services: that of this process, and the directories of system programs.
fn service_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Returns the state directory of a machine.
pub(crate) fn state_dir(cluster: &ClusterName, machine: MachineName) -> PathBuf {
    cluster.state_dir().join("machines").join(machine.to_string())
}

fn log_path(cluster: &ClusterName, machine: MachineName, service: &str) -> PathBuf {
    cluster.state_dir().join("logs").join(machine.to_string()).join(format!("{service}.log"))
}

fn open_log(cluster: &ClusterName, machine: MachineName, service: &str) -> Result<File> {
    let path = log_path(cluster, machine, service);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = File::options().create(true).append(true).open(&path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().map_or_else(|| format!("see {}", log.display()), str::to_owned)
}

/// Returns the stdout of a command.
///
/// # Errors
/// If the command failed. The error contains its stderr and stdout.
pub fn command_output(output: &Output) -> Result<String> {
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
