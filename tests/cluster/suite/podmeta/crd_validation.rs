//! Validation of profiles by the schema and the CEL rules of the CRD.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::fixtures::profile;
use crate::kit;

#[tokio::test]
async fn crd_rules_reject_invalid_profiles() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        let role = |name: &str| json!({"name": name, "dialect": "ec2", "secret": {"name": "s"}});
        for (spec, expected) in [
            (json!({"dialects": []}), "spec.dialects"),
            (json!({"dialects": ["gcp"]}), "spec.dialects[0]"),
            (json!({"metadataOptions": {"httpPutResponseHopLimit": 65}}), "httpPutResponseHopLimit"),
            (json!({"roles": [role("a"), role("b")]}), "spec.roles"),
            (
                json!({"roles": [{"name": "a", "dialect": "ecs", "secret": {"name": "s"}}]}),
                "must be a dialect listed in spec.dialects",
            ),
            (json!({"roles": [{"name": "a", "dialect": "ec2"}]}), "exactly one of secret"),
            (json!({"metadata": [{"dialect": "ec2", "path": "instance-id", "value": "i-1"}]}), "identifies the pod"),
            (
                json!({"metadata": [{"dialect": "ec2", "path": "a", "value": "x", "expression": "pod"}]}),
                "exactly one of value",
            ),
            (json!({"userData": {}}), "exactly one of inline"),
            (
                json!({"dialects": ["ecs"], "metadataOptions": {"httpProtocolIpv6": "enabled"}}),
                "enabled requires ec2 in spec.dialects",
            ),
            (json!({"allowedUsers": [1], "deniedUsers": [1]}), "must not contain a user of allowedUsers"),
            (json!({"limits": {"requestsPerSecond": 10, "burst": 5}}), "must be at least requestsPerSecond"),
            (json!({"tags": {"static": [{"key": "a b", "value": "x"}]}}), "must contain only letters, digits"),
        ] {
            let result = namespace.apply(&profile("web", spec.clone())).await;
            let error = result.err().with_context(|| format!("the API server accepted {spec}"))?;
            let message = format!("{error:#}");
            ensure!(message.contains(expected), "{spec}: {message}");
        }
        namespace.apply(&profile("web", json!({"roles": [role("a")]}))).await
    })
    .await
}
