//! What a new user does first.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::programs::KUBERNETES_MODULE;
use podmeta_crds::conditions::{ACCEPTED, PROGRAMMED};
use tokio::process::Command;

use crate::kit::{self, condition};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/quickstart-cluster.yaml");

#[tokio::test]
async fn the_quickstart_is_accepted_and_programmed_for_its_two_pods() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.default_service_account().await?;
        let kubectl = KUBERNETES_MODULE.build()?.join("kubectl");
        let run = async |arguments: &[&str]| -> Result<String> {
            let mut kubectl = Command::new(&kubectl);
            kubectl.arg("--kubeconfig").arg(&podmeta.cluster.kubeconfig).args(["--namespace", &namespace.name]);
            podmeta_cluster::machine::text(&kubectl.args(arguments).output().await?).context("kubectl")
        };
        run(&["apply", "-f", QUICKSTART]).await?;
        let applied = Instant::now();
        let done = |kind| move |status: &_| condition(status, kind).is_some_and(|condition| condition.status == "True");
        let status = podmeta
            .status(namespace, "web", "both pods are programmed", |status| {
                status.programmed_pods == Some(2) && done(ACCEPTED)(status) && done(PROGRAMMED)(status)
            })
            .await?;
        println!("accepted and programmed {:?} after kubectl apply", applied.elapsed());
        ensure!(status.matched_pods == Some(2), "{status:?}");
        let printed = run(&["get", "mdp"]).await?;
        println!("{printed}");
        let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = lines.next().context("nothing was printed")?;
        ensure!(head == ["NAME", "DIALECTS", "TOKENS", "ACCEPTED", "PROGRAMMED", "PODS", "AGE"], "{printed}");
        let line = lines.next().context("no profile was printed")?;
        ensure!(line.starts_with(&["web", r#"["ec2","ecs"]"#, "required", "True", "True", "2"]), "{printed}");
        Ok(())
    })
    .await
}
