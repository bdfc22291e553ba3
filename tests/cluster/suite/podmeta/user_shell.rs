//! Runs the commands of the documentation as a user does.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use kube::config::Kubeconfig;
use podmeta_cluster::images::CLIENT;
use podmeta_cluster::machine::command_output;
use podmeta_cluster::programs::{HELM_MODULE, KUBERNETES_MODULE};
use podmeta_markdown::{Block, page, root};
use tempfile::TempDir;
use tokio::process::Command;

use crate::kit::{TestCluster, TestNamespace};

/// The manifest of the quickstart, and the image of its pods, which the test cluster cannot pull.
const MANIFEST: &str = "examples/quickstart-cluster.yaml";
const QUICKSTART_IMAGE: &str = "curlimages/curl:8.11.1";

/// Returns the command blocks of a page that need a cluster.
pub(super) fn cluster_commands(path: &str) -> Vec<Block> {
    let mut blocks = page(path).blocks();
    blocks.retain(|block| block.label == "needs-cluster");
    blocks
}

/// A shell of a new user: a checkout, kubectl, helm, and docker, which does nothing because the nodes have the image.
pub(super) struct UserShell {
    /// Contains `charts`, `examples`, `target`, the kubeconfig and the program `docker`.
    dir: TempDir,
    path: String,
}

impl UserShell {
    pub(super) fn new(cluster: &TestCluster, namespace: &TestNamespace) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        fs::create_dir_all(file("examples"))?;
        for directory in ["charts", "target"] {
            symlink(root().join(directory), file(directory))?;
        }
        let manifest = fs::read_to_string(root().join(MANIFEST))?;
        ensure!(manifest.contains(QUICKSTART_IMAGE), "{MANIFEST} has no pod with image {QUICKSTART_IMAGE}");
        fs::write(file(MANIFEST), manifest.replace(QUICKSTART_IMAGE, CLIENT))?;
        let mut kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
        for context in kubeconfig.contexts.iter_mut().filter_map(|context| context.context.as_mut()) {
            context.namespace = Some(namespace.name.clone());
        }
        fs::write(file("kubeconfig"), serde_json::to_string(&kubeconfig)?)?;
        fs::create_dir(file("bin"))?;
        fs::write(file("bin/docker"), "#!/bin/sh\n")?;
        fs::set_permissions(file("bin/docker"), fs::Permissions::from_mode(0o755))?;
        let programs: [PathBuf; 3] = [file("bin"), KUBERNETES_MODULE.build()?, HELM_MODULE.build()?];
        let path = std::env::var("PATH").unwrap_or_default();
        let path = programs.iter().map(|dir| dir.display().to_string()).chain([path]).collect::<Vec<_>>().join(":");
        Ok(Self { dir, path })
    }

    /// Returns the path of a file in the directory of the shell.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs commands of a page. Stops at the first that fails, and returns their stdout.
    pub(super) async fn run(&self, commands: &str) -> Result<String> {
        let commands = commands.replace("REGISTRY/", "podmeta.test/").replace("=TAG", "=dev");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &commands]).current_dir(self.dir.path());
        shell.env("PATH", &self.path).env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        let output = shell.output().await.context("cannot run sh")?;
        let printed = command_output(&output).with_context(|| commands.clone())?;
        println!("{commands}");
        Ok(printed)
    }
}
