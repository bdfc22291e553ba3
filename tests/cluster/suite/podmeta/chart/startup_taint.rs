//! The startup taint of new nodes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::PodSpecs;
use crate::kit::render_chart;

/// Returns true if a ClusterRole of the chart allows patching nodes.
fn may_patch_nodes(objects: &[Value]) -> bool {
    let rules = objects.iter().filter_map(|object| object["rules"].as_array()).flatten();
    rules.into_iter().any(|rule| rule["resources"] == json!(["nodes"]) && rule["verbs"] == json!(["patch"]))
}

#[tokio::test]
async fn pods_tolerate_the_startup_taint_and_the_operator_removes_it_unless_it_is_off() -> Result<()> {
    let startup = json!({"key": "podmeta.dev/not-ready", "operator": "Exists"});
    let own = json!({"key": "other", "operator": "Exists"});
    let values = ["operator", "agent", "link"].map(|part| format!("{part}.tolerations=[{own}]"));
    let values = values.iter().flat_map(|value| ["--set-json", value]).collect::<Vec<_>>();
    for (values, expected) in
        [(values, json!([own, startup])), (vec!["--set-json", "agent.tolerations=[]"], json!([startup]))]
    {
        let objects = render_chart(&values).await?;
        ensure!(PodSpecs::of(&objects)?.agent["tolerations"] == expected, "{values:?}");
        for pod in PodSpecs::of(&objects)?.all() {
            ensure!(pod["tolerations"].as_array().is_some_and(|tolerations| tolerations.contains(&startup)), "{pod}");
        }
    }
    let flag = json!("--remove-startup-taint");
    for (value, is_on) in [("true", true), ("false", false)] {
        let objects = render_chart(&["--set", &format!("operator.removeStartupTaint={value}")]).await?;
        let arguments = PodSpecs::of(&objects)?.operator["containers"][0]["args"].as_array().context("no arguments")?;
        ensure!((arguments.contains(&flag), may_patch_nodes(&objects)) == (is_on, is_on), "{value}: {arguments:?}");
    }
    Ok(())
}
