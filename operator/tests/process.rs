//! Tests of the program, with an API server that never responds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed precondition fails the test")]

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Timeout of the program's first connection to the API server.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running program. It is killed on drop.
struct OperatorProcess(Child);

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn operator_has_no_core_dumps() {
    let directory = std::env::temp_dir().join(format!("podmeta-operator-process-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let api_server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = api_server.local_addr().unwrap();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{{name: test, cluster: {{server: 'http://{address}'}}}}]\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\nusers: [{{name: test, user: {{}}}}]\n"
    );
    fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_podmeta-operator"));
    command.env("KUBECONFIG", directory.join("kubeconfig"));
    command.args(["run", "--namespace", "podmeta-system", "--identity", "test", "--address", "127.0.0.1"]);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let operator = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let operator = OperatorProcess(operator);
    let (connected_tx, connected_rx) = channel();
    std::thread::spawn(move || connected_tx.send(api_server.accept().map(|(stream, _)| stream)));
    let _connection = connected_rx.recv_timeout(TIMEOUT).unwrap().unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", operator.0.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
    fs::remove_dir_all(directory).unwrap();
}
