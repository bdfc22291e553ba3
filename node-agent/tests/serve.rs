//! Tests of the program `podmeta-node-agent serve`, without an operator. Its pods come from a state file.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed precondition fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Timeout of a response.
const TIMEOUT: Duration = Duration::from_secs(30);

const STATE: &str = r#"{
    "resourceVersion": "e1:1",
    "items": [{"outcome": "denied", "pod": {"namespace": "shop", "name": "web", "uid": "u1"}, "reason": "no MetadataProfile matches it"}],
    "kept": {"credentials": [], "documents": []}
}"#;

/// A running agent. It is killed on drop.
struct AgentProcess {
    child: Child,
    /// Its log, read up to the line that reports the debug socket.
    log: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl AgentProcess {
    fn start(log_filter: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("state.json"), STATE).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_podmeta-node-agent"));
        command.args(["serve", "--operator", "https://127.0.0.1:1", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--log", log_filter, "--state-dir"]).arg(directory.path());
        command.arg("--operator-ca").arg(path("ca.crt")).arg("--token").arg(path("token"));
        command.arg("--debug-socket").arg(path("debug.sock"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("debug socket enabled") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the agent has exited");
        }
        Self { child, log, directory }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn agent_has_no_core_dumps() {
    let agent = AgentProcess::start("info");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.child.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
}

/// Each rejection is logged. 240 lines fill a pipe of 64 KiB.
#[test]
fn agent_whose_log_is_not_read_serves_requests() {
    let mut agent = AgentProcess::start("info,access=debug");
    let mut stream = UnixStream::connect(agent.directory.path().join("debug.sock")).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"shop/web ec2\n").unwrap();
    let mut responses = BufReader::new(stream.try_clone().unwrap());
    for number in 0..900 {
        stream.write_all(b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").unwrap();
        let status = read_response(&mut responses);
        assert_eq!(status.as_deref(), Some("HTTP/1.1 403 Forbidden"), "response {number}");
    }
    let mut line = String::new();
    agent.log.read_line(&mut line).unwrap();
    assert!(!line.is_empty());
}

/// Returns the status line of a response.
fn read_response(stream: &mut BufReader<UnixStream>) -> Option<String> {
    let mut status = String::new();
    stream.read_line(&mut status).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(number) = header.strip_prefix("content-length: ") {
            length = number.parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(status.trim_end().to_owned())
}
