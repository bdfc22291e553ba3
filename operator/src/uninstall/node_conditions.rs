//! Deletes the condition `podmeta.dev/Guarded` from nodes.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::FIELD_MANAGER;
use crate::cluster::own_objects::retry_while_unavailable;
use crate::model::node_guard::{GUARDED, GuardedCondition};

/// Deletes the condition from all nodes that have it. Idempotent.
///
/// # Errors
/// If the nodes cannot be listed, or the condition of one cannot be deleted. The message names these nodes.
pub(super) async fn delete(nodes: &Api<Node>) -> Result<()> {
    let list = || async { Ok(nodes.list(&ListParams::default()).await?.items) };
    let list = retry_while_unavailable("list the nodes", list).await;
    let list = list.context("cannot list the nodes to delete their condition podmeta.dev/Guarded")?;
    let names = list.iter().filter(|node| GuardedCondition::of_node(node).is_some()).map(ResourceExt::name_any);
    let (mut deleted, mut failed) = (0, Vec::new());
    for name in names {
        match delete_from(nodes, &name).await {
            Ok(()) => deleted += 1,
            Err(error) => {
                tracing::warn!(
                    node = name,
                    error = format!("{error:#}"),
                    "cannot delete the condition podmeta.dev/Guarded"
                );
                failed.push(name);
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "the condition podmeta.dev/Guarded is not deleted from these nodes: {}",
        failed.join(", ")
    );
    tracing::info!(nodes = deleted, "deleted the condition podmeta.dev/Guarded");
    Ok(())
}

async fn delete_from(nodes: &Api<Node>, name: &str) -> Result<()> {
    let patch = Patch::Strategic(json!({"status": {"conditions": [{"type": GUARDED, "$patch": "delete"}]}}));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let delete = || async {
        match nodes.patch_status(name, &params, &patch).await {
            // The node was deleted.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => Ok(result.map(drop)?),
        }
    };
    retry_while_unavailable(&format!("delete the condition podmeta.dev/Guarded of node {name}"), delete).await
}
