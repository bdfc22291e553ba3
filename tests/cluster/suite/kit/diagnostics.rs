//! Writes the state of a failed test to files: pods, logs and events of its namespace and of podmeta's.

use std::fs;
use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::TestNamespace;
use super::helm::SYSTEM_NAMESPACE;

/// Writes pods, their logs and events of the test's namespace and of podmeta's namespace below `target/cluster-dumps`, and prints
/// the paths. Logs a failure and continues with the next namespace.
pub(super) async fn write(namespace: &TestNamespace) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cluster-dumps").join(&namespace.name);
    let system = TestNamespace { name: SYSTEM_NAMESPACE.to_owned(), ..namespace.clone() };
    for (namespace, dir) in [(namespace, dir.clone()), (&system, dir.join(SYSTEM_NAMESPACE))] {
        match write_namespace(namespace, &dir).await {
            Ok(()) => eprintln!("diagnostics of namespace {}: {}", namespace.name, dir.display()),
            Err(error) => eprintln!("cannot write diagnostics of namespace {}: {error:#}", namespace.name),
        }
    }
}

async fn write_namespace(namespace: &TestNamespace, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?;
    fs::write(dir.join("pods.json"), serde_json::to_string_pretty(&pods.items)?)?;
    for pod in &pods {
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let name = format!("{}-{}.log", pod.name_any(), container.name);
            let log = namespace.logs(&pod.name_any(), &container.name).await;
            fs::write(dir.join(name), log.unwrap_or_else(|error| format!("{error:#}\n")))?;
        }
    }
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let line = |event: &Event| {
        let object = event.involved_object.name.as_deref().unwrap_or_default();
        let (reason, message) =
            (event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
        format!("{object}: {reason}: {message}\n")
    };
    fs::write(dir.join("events.txt"), events.iter().map(line).collect::<String>())?;
    Ok(())
}
