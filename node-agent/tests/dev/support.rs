//! Runs a dev server in a temporary directory, and a minimal HTTP client.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Timeout of a line, a response or a program.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A temporary directory that is removed on drop.
pub(crate) struct DevDirectory(PathBuf);

impl DevDirectory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podmeta-dev-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        // Replaces the file atomically, as editors do.
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// Returns `podmeta-node-agent dev` with these arguments. Its state and its working directory are in this directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podmeta-node-agent"));
        command.arg("dev").args(["--state-dir", self.0.join("state").to_str().unwrap()]).args(arguments);
        command.current_dir(&self.0);
        command
    }

    /// Runs a program that must exit. One that serves instead is killed, and fails the test.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (done_tx, done_rx) = channel();
        std::thread::spawn(move || done_tx.send(child.wait_with_output()));
        match done_rx.recv_timeout(TIMEOUT) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                nix::sys::signal::kill(id, nix::sys::signal::SIGKILL).unwrap();
                let output = done_rx.recv().unwrap().unwrap();
                panic!("{arguments:?} did not exit:\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
    }
}

impl Drop for DevDirectory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A running server.
pub(crate) struct DevServerProcess {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl DevServerProcess {
    /// Starts a server and waits for its first report.
    pub(crate) fn start(directory: &DevDirectory, arguments: &[&str]) -> (Self, serde_json::Value) {
        let mut all = vec!["-o", "json"];
        all.extend_from_slice(arguments);
        let mut command = directory.command(&all);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap());
        let server = Self { child, output, errors };
        let report = server.report();
        (server, report)
    }

    /// Returns the next report.
    pub(crate) fn report(&self) -> serde_json::Value {
        let line = self.output.recv_timeout(TIMEOUT).expect("a line of JSON");
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for a line on standard error that contains `text`.
    pub(crate) fn wait_for_error_line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.errors.recv_timeout(TIMEOUT) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line on standard error contains {text:?}:\n{}", seen.join("\n")),
            }
        }
    }

    /// Returns the server's anonymous resident memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for DevServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (lines_tx, lines_rx) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines_tx.send(line).is_err() {
                break;
            }
        }
    });
    lines_rx
}

/// Returns the address of a pod's dialect in a report.
pub(crate) fn endpoint_address(report: &serde_json::Value, pod: &str, dialect: &str) -> Option<String> {
    let endpoints = report["endpoints"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"] == pod && endpoint["dialect"] == dialect)?;
    Some(endpoint["url"].as_str().unwrap().trim_start_matches("http://").to_owned())
}

/// A client connection.
pub(crate) struct ClientConnection(TcpStream);

impl ClientConnection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(stream)
    }

    /// Sends a request and returns the status and body, or `None` if the connection is closed.
    pub(crate) fn request(&mut self, request: &str, headers: &[String]) -> Option<(u16, String)> {
        let headers = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
        self.0.write_all(format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n").as_bytes()).ok()?;
        let mut reader = BufReader::new(&self.0);
        let mut status = String::new();
        if reader.read_line(&mut status).ok()? == 0 {
            return None;
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(number) = header.strip_prefix("content-length: ") {
                length = number.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        Some((status, String::from_utf8(body).unwrap()))
    }
}

/// Returns the header with a new EC2 token.
pub(crate) fn token(address: &str) -> String {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60".to_owned();
    let (status, token) = ClientConnection::open(address).request("PUT /latest/api/token", &[ttl]).unwrap();
    assert_eq!(status, 200);
    format!("X-aws-ec2-metadata-token: {token}")
}

/// Gets a path with a new EC2 token on a new connection.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let token = token(address);
    ClientConnection::open(address).request(&format!("GET {path}"), &[token]).unwrap()
}

/// Returns a pod and its profile, with more lines for the profile's spec.
pub(crate) fn pod_and_profile(spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec: {{containers: [{{name: web, image: web:1}}]}}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {{name: web}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  dialects: [ec2]
{spec}"
    )
}
