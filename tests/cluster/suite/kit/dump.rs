//! Writes down what is in the namespace of a test that failed, and in podmeta's.

use std::fs;
use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::Namespace;
use super::podmeta::SYSTEM;

/// Writes pods, their logs and events into a folder, and prints where that is. What cannot be had is left out.
pub(super) async fn write(namespace: &Namespace) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cluster-dumps").join(&namespace.name);
    let system = Namespace { name: SYSTEM.to_owned(), ..namespace.clone() };
    for (namespace, folder) in [(namespace, folder.clone()), (&system, folder.join(SYSTEM))] {
        match attempt(namespace, &folder).await {
            Ok(()) => eprintln!("what was in namespace {}: {}", namespace.name, folder.display()),
            Err(why) => eprintln!("what was in namespace {} cannot be written down: {why:#}", namespace.name),
        }
    }
}

async fn attempt(namespace: &Namespace, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?;
    fs::write(folder.join("pods.json"), serde_json::to_string_pretty(&pods.items)?)?;
    for pod in &pods {
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let name = format!("{}-{}.log", pod.name_any(), container.name);
            let text =
                namespace.logs(&pod.name_any(), &container.name).await.unwrap_or_else(|why| format!("{why:#}\n"));
            fs::write(folder.join(name), text)?;
        }
    }
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let line = |event: &Event| {
        let object = event.involved_object.name.as_deref().unwrap_or_default();
        let (reason, message) =
            (event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
        format!("{object}: {reason}: {message}\n")
    };
    fs::write(folder.join("events.txt"), events.iter().map(line).collect::<String>())?;
    Ok(())
}
