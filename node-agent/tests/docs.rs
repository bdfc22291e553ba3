//! Runs the commands of README.md and docs/ that need no cluster, and checks the documented output and flags.
//!
//! - `sh serve` blocks start a dev server, which serves until the next such block of the page.
//! - `sh run` blocks must succeed.
//! - A `text output` block holds lines that the block before it prints, in this order. `…` matches any text.
//! - `yaml file=NAME` blocks are written to the working directory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use podmeta_markdown::{Block, Page, code, page, pages, root};

const AGENT: &str = env!("CARGO_BIN_EXE_podmeta-node-agent");
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Ports by pod and dialect.
type Ports = BTreeMap<(String, String), String>;

/// A working directory that looks like the root of the repository after `make dev`.
struct WorkingDirectory(PathBuf);

impl WorkingDirectory {
    fn new(page: &str) -> Self {
        let name = format!("podmeta-docs-{}-{}", page.replace('/', "-"), std::process::id());
        let path = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(path.join("target/debug")).unwrap();
        std::os::unix::fs::symlink(root().join("examples"), path.join("examples")).unwrap();
        std::os::unix::fs::symlink(AGENT, path.join("target/debug/podmeta-node-agent")).unwrap();
        Self(path)
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["120", "bash", "-euo", "pipefail", "-c", script]).current_dir(&self.0);
        command.env("XDG_STATE_HOME", self.0.join("state-home")).stdin(Stdio::null());
        command
    }
}

impl Drop for WorkingDirectory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A dev server that a `sh serve` block started.
struct Server {
    child: Child,
    /// Output of the server, up to the ready line.
    output: String,
}

impl Server {
    fn start(directory: &WorkingDirectory, block: &Block) -> Self {
        let command = match block.text.trim() {
            "make dev" => recipe_of_make_dev(),
            command => command.to_owned(),
        };
        let mut command = directory.bash(&format!("exec {command}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (lines_tx, lines_rx) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if lines_tx.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self { child, output: String::new() };
        while !server.output.contains("\nready:") {
            let line = lines_rx.recv_timeout(READY_TIMEOUT);
            let line = line.unwrap_or_else(|_| panic!("{}: the server is not ready:\n{}", block.place, server.output));
            server.output.push_str(&line);
            server.output.push('\n');
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `timeout` passes SIGTERM on to the server.
        let id = i32::try_from(self.child.id()).unwrap();
        let _already_ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGTERM);
        drop(self.child.wait());
    }
}

/// The command that `make dev` runs, with the binary that is tested here.
fn recipe_of_make_dev() -> String {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut lines = makefile.lines().skip_while(|line| !line.starts_with("dev:"));
    let recipe = lines.nth(1).expect("the Makefile has a target dev");
    let (program, arguments) = recipe.split_once(" -- ").expect("`make dev` runs the node agent");
    assert!(program.contains("podmeta-node-agent"), "{recipe}");
    format!("target/debug/podmeta-node-agent {arguments}")
}

/// The ports in a table that the dev server prints.
fn ports(table: &str) -> Ports {
    let mut ports = Ports::new();
    for line in table.lines() {
        let cells = line.split_whitespace().collect::<Vec<_>>();
        if let [pod, dialect, url, ..] = cells.as_slice()
            && let Some(port) = url.strip_prefix("http://127.0.0.1:")
        {
            ports.insert(((*pod).to_owned(), (*dialect).to_owned()), port.to_owned());
        }
    }
    ports
}

/// Replaces documented ports with those of the server, which differ if another program has the documented ones.
fn with_actual_ports(text: &str, documented: &Ports, actual: &Ports) -> String {
    let mut text = text.to_owned();
    for (endpoint, port) in actual {
        if let Some(written) = documented.get(endpoint).filter(|written| *written != port) {
            let taken = TcpStream::connect(format!("127.0.0.1:{written}")).is_ok();
            assert!(taken, "{endpoint:?} is documented at port {written}, which is free, and served at {port}");
            text = text.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{port}"));
        }
    }
    text
}

/// Replaces the server's ports with the documented ones.
fn with_documented_ports(text: &str, documented: &Ports, actual: &Ports) -> String {
    let mut text = text.to_owned();
    for (endpoint, port) in actual {
        if let Some(written) = documented.get(endpoint) {
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{written}"));
        }
    }
    text
}

/// Returns true if a line has the documented form.
fn matches(documented: &str, line: &str) -> bool {
    let mut parts = documented.split('…');
    let Some(mut rest) = parts.next().and_then(|start| line.strip_prefix(start)) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
        last = part;
    }
    rest.is_empty() || (documented.contains('…') && last.is_empty())
}

fn assert_printed(block: &Block, printed: &str) {
    let mut lines = printed.lines().map(str::trim_end);
    for documented in block.text.lines().map(str::trim_end).filter(|line| !line.is_empty() && *line != "…") {
        let found = lines.any(|line| matches(documented, line));
        assert!(found, "{}: the command does not print {documented:?} here, but:\n{printed}", block.place);
    }
}

fn run_page(page: &Page, documented: &Ports) {
    let directory = WorkingDirectory::new(&page.path);
    let mut server: Option<Server> = None;
    let mut actual = Ports::new();
    let mut printed = String::new();
    for block in page.blocks() {
        match (block.language.as_str(), block.label.as_str()) {
            ("yaml", label) if label.starts_with("file=") => {
                fs::write(directory.0.join(label.trim_start_matches("file=")), &block.text).unwrap();
            }
            ("sh", "serve") => {
                drop(server.take());
                let started = Server::start(&directory, &block);
                actual = ports(&started.output);
                printed = with_documented_ports(&started.output, documented, &actual);
                server = Some(started);
            }
            ("sh", "run") => {
                let script = with_actual_ports(&block.text, documented, &actual);
                let output = directory.bash(&script).output().unwrap();
                printed = String::from_utf8(output.stdout).unwrap();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}: {}\n{printed}{errors}", block.place, output.status);
            }
            ("text", "output") => assert_printed(&block, &printed),
            _ => {}
        }
    }
}

#[test]
fn commands_that_need_no_cluster_print_the_documented_output() {
    let pages = pages();
    let outputs = pages.iter().flat_map(Page::blocks).filter(|block| block.label == "output");
    let documented = outputs.flat_map(|block| ports(&block.text)).collect::<Ports>();
    assert!(!documented.is_empty(), "no page shows the table of the dev server");
    let mut ran = 0;
    for page in &pages {
        if page.blocks().iter().any(|block| matches!(block.label.as_str(), "run" | "serve")) {
            run_page(page, &documented);
            ran += 1;
        }
    }
    assert!(ran >= 3, "README.md, docs/how-to.md and docs/dev.md have commands to run");
}

#[test]
fn documented_flags_are_those_of_the_help() {
    let reference = page("docs/command-line.md");
    for command in ["serve", "query", "dev"] {
        let help = Command::new(AGENT).args([command, "--help"]).output().unwrap();
        assert!(help.status.success(), "podmeta-node-agent {command} --help: {}", help.status);
        let help = String::from_utf8(help.stdout).unwrap();
        let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let words = options.flat_map(|line| line.split([' ', ',', '[', '=']).map(str::to_owned));
        let mut offered = words.filter(|word| word.starts_with("--") && word.len() > 2).collect::<BTreeSet<_>>();
        offered.remove("--help");
        let rows = reference.rows(&format!("podmeta-node-agent {command}"));
        let cells = rows.iter().filter_map(|row| row.first());
        let flags = cells.flat_map(|cell| code(cell)).filter(|flag| flag.starts_with("--"));
        let documented = flags.map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(documented, offered, "flags of podmeta-node-agent {command} in docs/command-line.md");
    }
}
