//! The commands of the documentation that need a cluster run as they are written.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, PostParams};
use podmeta_markdown::{Block, pages};

use super::user_shell::{UserShell, cluster_commands};
use crate::kit::{self, Podmeta, TestCluster, TestNamespace, eventually};

/// Command blocks that this test does not run: page, first words, reason.
const NOT_RUN: [(&str, &str, &str); 6] = [
    ("docs/testing.md", "KUBECONFIG=", "runs this suite"),
    ("docs/dev.md", "kubectl get pods,nodes", "does not end; with `--check` it runs"),
    ("docs/install.md", "kubectl -n podmeta-system logs job/podmeta-uninstall", "needs a hook that failed"),
    ("docs/install.md", "helm template podmeta", "runs in a test of the uninstallation by hand"),
    ("docs/install.md", "echo '{\"securityContext\"", "runs in a test of the uninstallation by hand"),
    ("docs/install.md", "kubectl patch node NODE", "runs in a test of the uninstallation by hand"),
];

/// The namespaces that the documentation uses as examples.
const NAMESPACES: [&str; 2] = ["shop", "attic"];

/// The command blocks of all pages but the README, whose commands are those of the quickstart's test.
struct DocCommands(Vec<Block>);

impl DocCommands {
    fn read() -> Self {
        let pages = pages().into_iter().filter(|page| page.path != "README.md");
        Self(pages.flat_map(|page| cluster_commands(&page.path)).collect())
    }

    /// Removes and returns the block of a page that starts with these words.
    fn remove_block(&mut self, page: &str, start: &str) -> Result<String> {
        let is_match = |block: &Block| block.place.starts_with(&format!("{page}:")) && block.text.starts_with(start);
        let index = self.0.iter().position(is_match);
        let index = index.with_context(|| format!("{page} has no other command block that starts with {start:?}"))?;
        Ok(self.0.remove(index).text)
    }
}

/// Runs the commands of the pages in order.
struct DocRunner {
    commands: DocCommands,
    shell: UserShell,
}

impl DocRunner {
    async fn run(&mut self, page: &str, start: &str) -> Result<String> {
        let commands = self.commands.remove_block(page, start)?;
        self.shell.run(&commands).await
    }

    async fn install(&mut self) -> Result<()> {
        let page = "docs/install.md";
        self.run(page, "kubectl create namespace podmeta-system").await?;
        self.run(page, "docker build").await?;
        self.run(page, "helm install podmeta").await?;
        self.run(page, "kubectl -n podmeta-system rollout").await?;
        self.run(page, "kubectl apply -f examples").await?;
        self.shell.run("kubectl wait metadataprofile/web --for=condition=Programmed --timeout=60s").await.map(drop)
    }

    async fn wait_for_rollout(&self) -> Result<()> {
        for workload in ["deployment/podmeta-operator", "daemonset/podmeta-link", "daemonset/podmeta-agent"] {
            self.shell.run(&format!("kubectl -n podmeta-system rollout status {workload} --timeout=120s")).await?;
        }
        Ok(())
    }

    async fn check_output(&mut self, node: &str) -> Result<()> {
        let printed = self.run("docs/conditions.md", "kubectl get metadataprofiles").await?;
        ensure!(printed.contains("Programmed"), "{printed}");
        let describe = self.commands.remove_block("docs/conditions.md", "kubectl describe node NODE")?;
        let printed = self.shell.run(&describe.replace("NODE", node)).await?;
        ensure!(printed.contains("podmeta.dev/Guarded"), "{printed}");
        let printed = self.run("docs/install.md", "kubectl get pods -A").await?;
        ensure!(printed.contains("podmeta-link-"), "{printed}");
        self.run("docs/troubleshooting.md", "kubectl get events -A").await?;
        let printed = self.run("docs/troubleshooting.md", "kubectl -n podmeta-system get pods").await?;
        ensure!(printed.contains("podmeta-agent-"), "{printed}");
        let printed = self.run("docs/how-to.md", "kubectl get pods,nodes").await?;
        ensure!(printed.contains("checked:"), "{printed}");
        self.run("docs/profile.md", "kubectl label secret web-keys").await.map(drop)
    }

    async fn query_an_agent(&mut self, namespace: &str) -> Result<()> {
        self.run("docs/how-to.md", "helm upgrade podmeta").await?;
        self.wait_for_rollout().await?;
        let query = self.commands.remove_block("docs/how-to.md", "pod=$(kubectl get pods")?;
        let query = query.replace("default/", &format!("{namespace}/"));
        let printed = self.shell.run(&query).await?;
        ensure!(printed.lines().any(|line| line == "instance-id"), "{printed}");
        Ok(())
    }

    /// Replaces the key of signed documents, and checks that the certificate has changed.
    async fn replace_the_identity_key(&mut self) -> Result<()> {
        let page = "docs/how-to.md";
        let get_certificate =
            self.commands.remove_block(page, "kubectl -n podmeta-system get configmap podmeta-identity")?;
        self.shell.run(&get_certificate).await?;
        let certificate = || fs::read_to_string(self.shell.file("certificate.pem"));
        let before = certificate()?;
        ensure!(before.contains("BEGIN CERTIFICATE"), "{before}");
        let replace = self.commands.remove_block("docs/operator.md", "kubectl -n podmeta-system delete secret")?;
        self.shell.run(&replace).await?;
        self.wait_for_rollout().await?;
        self.shell.run(&get_certificate).await?;
        ensure!(certificate()? != before, "the certificate is the same");
        Ok(())
    }

    async fn change_values(&mut self, cluster: &TestCluster) -> Result<()> {
        self.run("docs/operator.md", "helm upgrade podmeta").await?;
        for namespace in NAMESPACES {
            let roles: Api<Role> = Api::namespaced(cluster.client.clone(), namespace);
            roles.get("podmeta-operator-secrets").await.with_context(|| format!("no Role in {namespace}"))?;
        }
        self.run("docs/install.md", "helm upgrade podmeta").await?;
        self.wait_for_rollout().await
    }

    async fn uninstall(&mut self) -> Result<()> {
        let page = "docs/install.md";
        self.run(page, "helm uninstall podmeta").await?;
        self.run(page, "kubectl -n podmeta-system delete job").await?;
        self.run(page, "kubectl delete crd").await.map(drop)
    }
}

/// Deletes namespaces that exist, and waits until they are gone.
async fn delete_namespaces(cluster: &TestCluster, names: &[&str]) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    for name in names {
        if namespaces.get_opt(name).await?.is_some() {
            namespaces.delete(name, &DeleteParams::default()).await?;
        }
    }
    for name in names {
        eventually(Duration::from_secs(60), "the namespace is deleted", async || {
            ensure!(namespaces.get_opt(name).await?.is_none(), "{name} exists");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn run_all(cluster: &TestCluster, namespace: &TestNamespace) -> Result<()> {
    let mut runner = DocRunner { commands: DocCommands::read(), shell: UserShell::new(cluster, namespace)? };
    for (page, start, _) in NOT_RUN {
        runner.commands.remove_block(page, start)?;
    }
    runner.install().await?;
    runner.check_output(cluster.node_names().first().context("no nodes")?).await?;
    runner.query_an_agent(&namespace.name).await?;
    runner.replace_the_identity_key().await?;
    runner.change_values(cluster).await?;
    runner.uninstall().await?;
    if let Some(block) = runner.commands.0.first() {
        bail!("no test runs the commands at {}:\n{}", block.place, block.text);
    }
    Ok(())
}

#[tokio::test]
async fn commands_of_the_pages_run_as_they_are_written() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        namespace.wait_for_service_account().await?;
        delete_namespaces(cluster, &["podmeta-system"]).await?;
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        for name in NAMESPACES {
            let new = serde_json::from_value(serde_json::json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &new).await?;
        }
        let result = Podmeta::with_own_installation(async || run_all(cluster, namespace).await).await;
        delete_namespaces(cluster, &NAMESPACES).await?;
        result
    })
    .await
}
