//! The installation of the link daemon on a node that lacks a feature.

use std::process::Command;

use crate::kit::{Agent, pod, run};

#[tokio::test]
async fn node_that_cannot_mount_the_filesystem_of_the_redirection_gets_guards_and_plugin() {
    let (agent, node) = (Agent::new().await, pod());
    let plugins = agent.path.with_file_name("bin");
    std::fs::create_dir(&plugins).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_podmeta-link"));
    command.args(["install", "--redirect-host-network", "--guard-pins", "/proc/podmeta/bpf", "--agent-namespace"]);
    command.arg(&agent.path).arg("--cni-bin-dir").arg(&plugins).args(["--plugin", env!("CARGO_BIN_EXE_podmeta-cni")]);
    let output = node.run(|| command.output()).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("cannot mount the filesystem of the redirection"), "{log}");
    assert!(run(&node, "ip rule").contains("prohibit") && plugins.join("podmeta-cni").exists());
}
