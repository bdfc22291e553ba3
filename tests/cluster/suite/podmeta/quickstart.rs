//! The quickstart of the README: its commands run as they are written, from the installation to the removal.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kube::config::Kubeconfig;
use podmeta_cluster::images::CLIENT;
use podmeta_cluster::machine::command_output;
use podmeta_cluster::programs::{HELM_MODULE, KUBERNETES_MODULE};
use podmeta_metadata::dialect::Dialect;
use tempfile::TempDir;
use tokio::process::Command;

use crate::kit::{self, Podmeta, TestCluster, TestNamespace};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The heading of the quickstart in the README.
const HEADING: &str = "## Quickstart in a cluster";

/// The manifest of the quickstart, and the image of its pods, which the test cluster cannot pull.
const MANIFEST: &str = "examples/quickstart-cluster.yaml";
const QUICKSTART_IMAGE: &str = "curlimages/curl:8.11.1";

/// The command blocks of the quickstart.
struct Quickstart {
    install: String,
    apply: String,
    request: String,
    remove: String,
}

impl Quickstart {
    fn read() -> Result<Self> {
        let readme = fs::read_to_string(Path::new(ROOT).join("README.md"))?;
        let section = readme.split(HEADING).nth(1).context("the README has no quickstart in a cluster")?;
        let section = section.split("\n## ").next().unwrap_or_default();
        // The odd parts are blocks. The first line of a block is its language and label.
        let blocks =
            section.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh needs-cluster\n"));
        let blocks: [String; 4] =
            blocks.map(str::to_owned).collect::<Vec<_>>().try_into().map_err(|blocks: Vec<_>| {
                anyhow::anyhow!("the quickstart has {} command blocks, not 4", blocks.len())
            })?;
        let [install, apply, request, remove] = blocks;
        Ok(Self { install, apply, request, remove })
    }
}

/// A shell of a new user: a checkout, kubectl, helm, and docker, which does nothing because the nodes have the image.
struct UserShell {
    /// Contains `charts`, `examples`, the kubeconfig and the program `docker`.
    dir: TempDir,
    path: String,
}

impl UserShell {
    fn new(cluster: &TestCluster, namespace: &TestNamespace) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        fs::create_dir_all(file("examples"))?;
        symlink(Path::new(ROOT).canonicalize()?.join("charts"), file("charts"))?;
        let manifest = fs::read_to_string(Path::new(ROOT).join(MANIFEST))?;
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

    /// Runs commands of the README. Stops at the first that fails, and returns their stdout.
    async fn run(&self, commands: &str) -> Result<String> {
        let commands = commands.replace("REGISTRY/", "podmeta.test/");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &commands]).current_dir(self.dir.path());
        shell.env("PATH", &self.path).env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        let output = shell.output().await.context("cannot run sh")?;
        let printed = command_output(&output).with_context(|| commands.clone())?;
        println!("{commands}{printed}");
        Ok(printed)
    }
}

#[tokio::test]
async fn quickstart_of_the_readme_prints_the_instance_id_of_the_pod() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        namespace.wait_for_service_account().await?;
        let (quickstart, shell) = (Quickstart::read()?, UserShell::new(cluster, namespace)?);
        Podmeta::with_own_installation(async || {
            shell.run(&quickstart.install).await?;
            let printed = shell.run(&quickstart.apply).await?;
            let mut lines = printed.lines().skip_while(|line| !line.starts_with("NAME ")).map(words);
            let header = lines.next().with_context(|| format!("kubectl printed no table: {printed}"))?;
            ensure!(header == ["NAME", "DIALECTS", "TOKENS", "ACCEPTED", "PROGRAMMED", "PODS", "AGE"], "{printed}");
            let row = lines.next().context("kubectl printed no profile")?;
            ensure!(row.starts_with(&["web", r#"["ec2","ecs"]"#, "required", "True", "True", "2"]), "{printed}");
            let printed = shell.run(&quickstart.request).await?;
            let mut pods = namespace.api::<Pod>().list(&ListParams::default().labels("app=web")).await?.items;
            pods.sort_by_key(kube::ResourceExt::name_any);
            let ids: Vec<_> =
                pods.iter().filter_map(|pod| Some(Dialect::Ec2.protocol().instance_id(&pod.uid()?))).collect();
            ensure!(ids.len() == 2 && ids.iter().collect::<HashSet<_>>().len() == 2, "{ids:?}");
            ensure!(ids.first().is_some_and(|id| *id == printed), "{printed} is not the first of {ids:?}");
            shell.run(&quickstart.remove).await.map(drop)
        })
        .await
    })
    .await
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
