//! A dev server in a folder of the test's own, stopped and removed at its end; and a very plain HTTP client.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The longest that a test waits for a line.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of a test's own.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podmeta-dev-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        // As editors do: the new file appears as a whole.
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podmeta-node-agent"));
        command.arg("dev").args(["--state-dir", self.0.join("state").to_str().unwrap()]).args(arguments);
        command.current_dir(&self.0);
        command
    }

    /// Runs a server that should end by itself; one that serves instead is killed, and fails the test.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (done, ended) = channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        match ended.recv_timeout(PATIENCE) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                nix::sys::signal::kill(id, nix::sys::signal::SIGKILL).unwrap();
                let output = ended.recv().unwrap().unwrap();
                panic!("{arguments:?} did not end:\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Server {
    /// Starts a server and waits for the first line of JSON, which says where it serves.
    pub(crate) fn start(folder: &Folder, arguments: &[&str]) -> (Self, serde_json::Value) {
        let mut all = vec!["-o", "json"];
        all.extend_from_slice(arguments);
        let mut command = folder.command(&all);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap());
        let server = Self { child, output, errors };
        let report = server.report();
        (server, report)
    }

    /// The next line of JSON.
    pub(crate) fn report(&self) -> serde_json::Value {
        let line = self.output.recv_timeout(PATIENCE).expect("a line of JSON");
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for a line on standard error that holds `text`.
    pub(crate) fn says(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.errors.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("the server never said {text:?}, but:\n{}", seen.join("\n")),
            }
        }
    }

    /// The server's resident memory that is not its program's.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks the server to end, as a supervisor does, and gives its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The URL's address of a pod's dialect in a report.
pub(crate) fn address(report: &serde_json::Value, pod: &str, dialect: &str) -> Option<String> {
    let endpoints = report["endpoints"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"] == pod && endpoint["dialect"] == dialect)?;
    Some(endpoint["url"].as_str().unwrap().trim_start_matches("http://").to_owned())
}

/// One connection.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends a request and reads its whole answer: status and body. `None` if the connection is dead.
    pub(crate) fn ask(&mut self, request: &str, headers: &[String]) -> Option<(u16, String)> {
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

/// The header with a new EC2 token.
pub(crate) fn token(address: &str) -> String {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60".to_owned();
    let (status, token) = Connection::open(address).ask("PUT /latest/api/token", &[ttl]).unwrap();
    assert_eq!(status, 200);
    format!("X-aws-ec2-metadata-token: {token}")
}

/// Asks once, with a new EC2 token, on a new connection.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let token = token(address);
    Connection::open(address).ask(&format!("GET {path}"), &[token]).unwrap()
}

/// A pod and a profile for it, with more lines for the profile's spec.
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
