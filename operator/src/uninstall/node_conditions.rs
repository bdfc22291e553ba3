//! Deletes the condition `podmeta.dev/Guarded` from nodes. The caller first ends the programs that update it.

use std::future::ready;
use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::own_objects::retry_while_unavailable;
use crate::cluster::{ApiTimeout, FIELD_MANAGER};
use crate::model::node_guard::GUARDED;

/// Timeout of the deletion from all nodes.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Nodes of one list response. A Node has up to some ten KiB, and the container has 64 MiB of memory.
const PAGE_SIZE: u32 = 100;

/// Maximum number of concurrent patches.
const MAX_CONCURRENT_PATCHES: usize = 8;

/// Deletes the condition from all nodes that have it. Logs failures, with the page that has the command: they must not stop the
/// removal of podmeta from nodes. The nodes are untyped, because their owners can write values that no client library parses.
pub(super) async fn delete(nodes: &Api<DynamicObject>) {
    let help = "where it keeps its last value; delete it by hand: docs/install.md, \"Without hooks\"";
    match timeout(TIMEOUT, delete_from_all(nodes)).await.unwrap_or_else(|_| Err(ApiTimeout.into())) {
        Ok(Deleted { count, failed }) if failed.is_empty() => {
            tracing::info!(count, "deleted the condition podmeta.dev/Guarded of nodes");
        }
        Ok(Deleted { failed, .. }) => {
            let (names, errors) = failed.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
            let error = errors.first().map(|error| format!("{error:#}"));
            tracing::warn!(
                nodes = names.join(", "),
                error,
                "cannot delete the condition podmeta.dev/Guarded of nodes, {help}"
            );
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot delete the condition podmeta.dev/Guarded of all nodes, {help}"
            );
        }
    }
}

struct Deleted {
    count: usize,
    /// Names of nodes, and why their condition is not deleted.
    failed: Vec<(String, anyhow::Error)>,
}

async fn delete_from_all(nodes: &Api<DynamicObject>) -> Result<Deleted> {
    let names = list_nodes_with_condition(nodes).await?;
    let total = names.len();
    let delete = async |name: String| delete_from(nodes, &name).await.err().map(|error| (name, error));
    let deletions = stream::iter(names).map(delete).buffer_unordered(MAX_CONCURRENT_PATCHES);
    let failed = deletions.filter_map(ready).collect::<Vec<_>>().await;
    Ok(Deleted { count: total - failed.len(), failed })
}

async fn list_nodes_with_condition(nodes: &Api<DynamicObject>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(PAGE_SIZE);
    loop {
        let list = || async { Ok(nodes.list(&params).await?) };
        let page = retry_while_unavailable("list the nodes", list).await?;
        names.extend(page.items.iter().filter(|node| has_condition(&node.data)).map(|node| node.name_any()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(names),
        }
    }
}

fn has_condition(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == GUARDED)
}

async fn delete_from(nodes: &Api<DynamicObject>, name: &str) -> Result<()> {
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
