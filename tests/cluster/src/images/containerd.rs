//! The images of a node's containerd.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::oci;
use crate::kubernetes::node::CONTAINERD_SOCKET;
use crate::machine::{RunningMachine, command_output};
use crate::programs::CONTAINERD_MODULE;

/// Imports an archive into a node's containerd, unless it has an image with the same name and digest.
///
/// # Errors
/// If the archive is not valid, or containerd rejects it.
pub fn import(archive: &Path, node: &RunningMachine) -> Result<()> {
    let (name, digest) = oci::name_and_digest(archive)?;
    if list(node)?.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains(&digest)) {
        return Ok(());
    }
    let mut import = ctr(node, &["import", "-"])?;
    let output = import.stdin(Stdio::from(File::open(archive)?)).output().context("cannot run ctr")?;
    command_output(&output).with_context(|| format!("cannot import {}", archive.display())).map(drop)
}

/// Returns the list of a node's images, as `ctr` prints it.
///
/// # Errors
/// If containerd does not respond.
pub fn list(node: &RunningMachine) -> Result<String> {
    command_output(&ctr(node, &["list"])?.output().context("cannot run ctr")?)
}

fn ctr(node: &RunningMachine, arguments: &[&str]) -> Result<Command> {
    let mut command = node.command(CONTAINERD_MODULE.build()?.join("ctr"))?;
    command
        .args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "--connect-timeout", "2s", "images"])
        .args(arguments);
    Ok(command)
}
