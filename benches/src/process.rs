//! A server under measurement: a child process, its processor time and its resident memory.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::floor::{Arrangement, Recorded};

/// A running server; ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it is asked: an address for each pod.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts the agent on the pods of a file; its log goes to a file beside that, as on a node it goes to a pipe.
    ///
    /// # Errors
    /// If there is no agent beside this program, or it does not get ready.
    pub(crate) fn agent(file: &Path, arguments: &[&str]) -> Result<Self> {
        let program = sibling("podmeta-node-agent")?;
        let log = std::fs::File::create(file.with_extension("log"))?;
        let state = file.with_extension("state");
        let mut command = Command::new(&program);
        command.args(["dev", "-o", "json", "-f"]).arg(file).arg("--state-dir").arg(state).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let line = first_line(&mut child)?;
        let ready: serde_json::Value = serde_json::from_str(&line).with_context(|| {
            format!("{} did not start: see {}", program.display(), file.with_extension("log").display())
        })?;
        let endpoints = ready.get("endpoints").and_then(serde_json::Value::as_array).context("it serves nothing")?;
        let address = |endpoint: &serde_json::Value| {
            let url = endpoint.get("url")?.as_str()?;
            url.strip_prefix("http://")?.parse().ok()
        };
        let addresses = endpoints.iter().filter_map(address).collect();
        Ok(Self { child, addresses })
    }

    /// Starts the floor with recorded answers.
    ///
    /// # Errors
    /// If it does not get ready.
    pub(crate) fn floor(answers: &[Recorded], arrangement: Arrangement) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", arrangement.name()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("the floor has no standard input")?;
        stdin.write_all(&serde_json::to_vec(answers)?)?;
        drop(stdin);
        let address = first_line(&mut child)?.trim().parse().context("the floor did not start")?;
        Ok(Self { child, addresses: vec![address] })
    }

    /// The address of the first pod.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.addresses.first().copied().context("the server has no address")
    }

    /// The processor time of all its threads so far. A thread that ended is not in it; ours do not end.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
            time += Duration::from_nanos(nanoseconds.context("schedstat has no time")?);
        }
        Ok(time)
    }

    /// Its resident memory in KiB: what it allocated, and what it has mapped of its program.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(crate) fn resident(&self) -> Result<Resident> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
                .with_context(|| format!("no {name}"))
        };
        Ok(Resident { all: field("VmRSS")?, own: field("RssAnon")? })
    }
}

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: u64,
    /// What is not a file's.
    pub(crate) own: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    let stdout = child.stdout.take().context("there is no standard output")?;
    let mut reader = BufReader::new(stdout);
    reader.read_line(&mut line)?;
    child.stdout = Some(reader.into_inner()); // kept open: a write to a closed one would end the server
    Ok(line)
}

fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "there is no {}; build it with the same profile, as `make bench` does",
        path.display()
    );
    Ok(path)
}
