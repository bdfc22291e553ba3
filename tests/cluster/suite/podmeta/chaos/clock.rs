//! Faults of the clock of podmeta's processes: a library shifts the time that they read. The dynamic linker loads it before the C
//! library. The clock of the node and of other processes does not change.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::try_join_all;
use podmeta_cluster::machine::command_output;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::faults::FaultyNode;
use crate::kit::{AGENT_COMMAND, LINK_COMMAND, OPERATOR_COMMAND, Podmeta};

const LIBRARY_SOURCE: &str = include_str!("../scripts/clock.c");

/// Directory of the library and of the offset on a node.
const NODE_DIR: &str = "/var/lib/podmeta-test-clock";

/// The same directory in the containers. The library reads `offset` there.
const CONTAINER_DIR: &str = "/podmeta-test-clock";

/// Offset of the clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClockOffset {
    None,
    /// Forward by two hours.
    Forward,
    /// Back by two hours.
    Back,
}

impl ClockOffset {
    fn seconds(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Forward => 7_200,
            Self::Back => -7_200,
        }
    }
}

impl FaultyNode<'_> {
    /// Sets the clock of all processes of podmeta on the node.
    pub(super) async fn set_clock(&self, offset: ClockOffset) -> Result<()> {
        self.node.sh(&write_offset(offset)).await.map(drop)
    }
}

/// Returns the script that writes the offset. It changes the file in place, because processes have mapped it.
fn write_offset(offset: ClockOffset) -> String {
    format!("printf '%-20s\\n' {} | dd of={NODE_DIR}/offset conv=notrunc status=none", offset.seconds())
}

/// Adds the library to all containers of podmeta that run, and waits until they use it.
pub(super) async fn install(podmeta: &Podmeta) -> Result<()> {
    let library = BASE64_STANDARD.encode(compile().await?);
    let names = podmeta.cluster.node_names();
    try_join_all(names.iter().map(async |name| {
        let offset = write_offset(ClockOffset::None);
        let script = format!("mkdir -p {NODE_DIR}\necho {library} | base64 -d >{NODE_DIR}/clock.so\n{offset}");
        podmeta.cluster.node_by_name(name).sh(&script).await
    }))
    .await?;
    let (link, agent, operator) = (template("link"), template("serve"), template("operator"));
    tokio::try_join!(
        podmeta.roll_out_daemon_set("podmeta-link", &link),
        podmeta.roll_out_daemon_set("podmeta-agent", &agent),
        podmeta.roll_out_deployment("podmeta-operator", &operator),
    )?;
    let mut processes = 0;
    for name in names {
        for command in [AGENT_COMMAND, LINK_COMMAND, OPERATOR_COMMAND] {
            for process in podmeta.processes(name, command).await? {
                let script = format!("grep --quiet '{CONTAINER_DIR}/clock.so' /proc/{process}/maps");
                let found = podmeta.cluster.node_by_name(name).sh(&script).await;
                found.with_context(|| format!("process {command}does not use the library of the clock"))?;
                processes += 1;
            }
        }
    }
    // An agent and a link daemon on each node, and two operators.
    let expected = 2 * names.len() + 2;
    ensure!(processes == expected, "{processes} processes use the library of the clock instead of {expected}");
    Ok(())
}

/// Compiles the library, and returns it.
async fn compile() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let library = dir.path().join("clock.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-s", "-Wall", "-Werror", "-x", "c", "-o"]).arg(&library).arg("-");
    let mut running = compiler.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run cc")?;
    let mut source = running.stdin.take().context("cc has no stdin")?;
    source.write_all(LIBRARY_SOURCE.as_bytes()).await?;
    drop(source);
    command_output(&running.wait_with_output().await?).context("cannot compile the library of the clock")?;
    tokio::fs::read(AsRef::<Path>::as_ref(&library)).await.context("cannot read the library of the clock")
}

/// Returns a patch of a pod template: the container loads the library.
fn template(container: &str) -> Value {
    json!({"spec": {
        "volumes": [{"name": "test-clock", "hostPath": {"path": NODE_DIR, "type": "Directory"}}],
        "containers": [{
            "name": container,
            "env": [{"name": "LD_PRELOAD", "value": format!("{CONTAINER_DIR}/clock.so")}],
            "volumeMounts": [{"name": "test-clock", "mountPath": CONTAINER_DIR, "readOnly": true}],
        }],
    }})
}
