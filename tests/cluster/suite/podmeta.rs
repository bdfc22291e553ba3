//! podmeta on a cluster, installed by its chart.

mod agents;
mod answers;
mod certificates;
mod conditions;
mod network;
mod outage;
mod profiles;
mod quickstart;
mod served;

use serde_json::{Value, json};

/// A profile for the pods of one label.
fn profile(name: &str, spec: Value) -> String {
    let mut profile = json!({
        "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataProfile", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "dialects": ["ec2"]},
    });
    if let (Some(Value::Object(own)), Value::Object(more)) = (profile.get_mut("spec"), spec) {
        own.extend(more);
    }
    profile.to_string()
}

/// A pod with a label that is bound to a node; whether it runs is all the same.
fn pod(name: &str, app: &str) -> String {
    let image = podmeta_cluster::images::CLIENT;
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "client", "image": image, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}],
        },
    })
    .to_string()
}
