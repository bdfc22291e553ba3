//! A measured server: a child process with its processor time and resident memory.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::baseline::{RecordedResponse, ThreadArrangement};

/// A running server process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    /// Addresses, one for each pod.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl ServerProcess {
    /// Starts the dev agent with a manifest file and waits until it is ready. Its log file and its state directory have the
    /// name of the manifest file with the extensions `log` and `state`.
    ///
    /// # Errors
    /// If the agent's program is not next to this program, or the agent does not become ready.
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
        let endpoints =
            ready.get("endpoints").and_then(serde_json::Value::as_array).context("the agent has no endpoints")?;
        let address = |endpoint: &serde_json::Value| {
            let url = endpoint.get("url")?.as_str()?;
            url.strip_prefix("http://")?.parse().ok()
        };
        let addresses = endpoints.iter().filter_map(address).collect();
        Ok(Self { child, addresses })
    }

    /// Starts the baseline with recorded responses.
    ///
    /// # Errors
    /// If the baseline does not start.
    pub(crate) fn baseline(responses: &[RecordedResponse], arrangement: ThreadArrangement) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["baseline", arrangement.name()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("the baseline has no standard input")?;
        stdin.write_all(&serde_json::to_vec(responses)?)?;
        drop(stdin);
        let address = first_line(&mut child)?.trim().parse().context("the baseline did not start")?;
        Ok(Self { child, addresses: vec![address] })
    }

    /// Returns the address of the first pod.
    ///
    /// # Errors
    /// If the server has no address.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.addresses.first().copied().context("the server has no address")
    }

    /// Returns the processor time of all running threads since their start. Ended threads do not count; the servers here
    /// keep their threads.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
            time += Duration::from_nanos(nanoseconds.context("schedstat has no processor time")?);
        }
        Ok(time)
    }

    /// Returns the kernel's memory of the server's sockets in KiB. Sockets of clients do not count.
    ///
    /// # Errors
    /// If `ss` of iproute2 cannot be run.
    pub(crate) fn socket_memory(&self) -> Result<u64> {
        let arguments = ["--no-header", "--numeric", "--oneline", "--tcp", "--all", "--memory"];
        let output = Command::new("ss").args(arguments).output().context("cannot run ss of iproute2")?;
        anyhow::ensure!(output.status.success(), "ss failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(socket_memory_of(&String::from_utf8_lossy(&output.stdout), &self.addresses) / 1024)
    }

    /// Returns the resident memory.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(crate) fn resident(&self) -> Result<ResidentMemory> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
                .with_context(|| format!("no {name}"))
        };
        Ok(ResidentMemory { total: field("VmRSS")?, anonymous: field("RssAnon")? })
    }
}

/// Returns the kernel's memory of the sockets with one of these local addresses, in bytes, from the output of `ss --memory`: bytes
/// that were received (`r`) or wait to be sent or acknowledged (`w`), reserved memory (`f`), options (`o`) and backlog (`bl`).
fn socket_memory_of(ss_output: &str, addresses: &[SocketAddr]) -> u64 {
    let of_line = |line: &str| -> Option<u64> {
        let local: SocketAddr = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
        let (_, memory) = line.split_once("skmem:(")?;
        let values = memory.split_once(')')?.0.split(',');
        let bytes = |value: &str| {
            let (name, bytes) = value.split_at_checked(value.find(|c: char| c.is_ascii_digit())?)?;
            matches!(name, "r" | "w" | "f" | "o" | "bl").then(|| bytes.parse::<u64>().ok())?
        };
        addresses.contains(&local).then(|| values.filter_map(bytes).sum::<u64>())
    };
    ss_output.lines().filter_map(of_line).sum()
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResidentMemory {
    /// Total (`VmRSS`).
    pub(crate) total: u64,
    /// Memory that is not mapped from a file (`RssAnon`).
    pub(crate) anonymous: u64,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    let stdout = child.stdout.take().context("the server has no standard output")?;
    let mut reader = BufReader::new(stdout);
    reader.read_line(&mut line)?;
    child.stdout = Some(reader.into_inner()); // keep it open: a write to a closed pipe would end the server
    Ok(line)
}

fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "missing program {}: build it with the same profile, as `make bench` does",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SS_OUTPUT: &str = "\
LISTEN 0 4096 127.0.0.1:20001 0.0.0.0:* skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d0)
ESTAB 10 0 127.0.0.1:20001 127.0.0.1:40000 skmem:(r768,rb131072,t5,tb2626560,f3328,w4096,o8,bl16,d3)
ESTAB 0 10 127.0.0.1:40000 127.0.0.1:20001 skmem:(r1,rb131072,t0,tb2626560,f1,w1,o1,bl1,d0)
ESTAB 0 0 127.0.0.1:20002 127.0.0.1:40001 skmem:(r100,rb131072,t0,tb2626560,f0,w0,o0,bl0,d0)
TIME-WAIT 0 0 127.0.0.1:20001 127.0.0.1:40002
";

    #[test]
    fn memory_of_the_servers_sockets_is_summed_without_those_of_clients() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(socket_memory_of(SS_OUTPUT, &[address(20001)]), 768 + 3328 + 4096 + 8 + 16);
        assert_eq!(socket_memory_of(SS_OUTPUT, &[address(20001), address(20002)]), 8216 + 100);
        assert_eq!(socket_memory_of(SS_OUTPUT, &[address(9)]), 0);
    }
}
