//! The quickstart of the README: its commands run as they are written, from the installation to the removal.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use podmeta_metadata::dialect::Dialect;

use super::user_shell::{UserShell, cluster_commands};
use crate::kit::{self, Podmeta};

/// The command blocks of the quickstart.
struct Quickstart {
    install: String,
    apply: String,
    request: String,
    remove: String,
}

impl Quickstart {
    fn read() -> Result<Self> {
        let blocks = cluster_commands("README.md").into_iter().map(|block| block.text);
        let blocks: [String; 4] = blocks.collect::<Vec<_>>().try_into().map_err(|blocks: Vec<_>| {
            anyhow::anyhow!("the README has {} command blocks for a cluster, not 4", blocks.len())
        })?;
        let [install, apply, request, remove] = blocks;
        Ok(Self { install, apply, request, remove })
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
            pods.sort_by_key(ResourceExt::name_any);
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
