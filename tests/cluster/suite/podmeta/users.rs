//! Profiles that restrict the users of a pod.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{self, Podmeta, TestNamespace};

/// Returns the profile `web` with a field that restricts users. It requires no tokens, and serves IPv6 too.
fn restricted_profile(field: &str, users: &[u32]) -> String {
    let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled"});
    profile("web", json!({"dialects": ["ec2", "ecs"], "metadataOptions": options, field: users}))
}

/// Returns the status of a request that a user of pod `web` sends.
async fn status(namespace: &TestNamespace, user: u32, address: &str) -> Result<String> {
    let become_user = "import os, sys; os.setuid(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])";
    let url = format!("http://{address}/latest/meta-data/instance-id");
    let curl = ["curl", "-gs", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let user = user.to_string();
    let command = [&["python3", "-c", become_user, &user][..], &curl].concat();
    namespace.run("web", &command).await
}

/// A pod whose profile restricts users, and the status of the requests of some users.
struct RestrictionCase<'a> {
    /// The field of the profile.
    field: &'a str,
    users: &'a [u32],
    /// Fields of the pod's spec.
    pod_spec: Value,
    statuses: &'a [(u32, &'a str)],
}

impl RestrictionCase<'_> {
    async fn check(self, podmeta: &Podmeta, namespace: &TestNamespace) -> Result<()> {
        namespace.apply(&restricted_profile(self.field, self.users)).await?;
        namespace.start_client("web", self.pod_spec).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        for address in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"] {
            for (user, expected) in self.statuses {
                let printed = status(namespace, *user, address).await?;
                ensure!(printed == *expected, "user {user} at {address}: {printed}");
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn only_allowed_users_of_a_pod_are_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let statuses = &[(0, "200"), (1000, "403")];
        RestrictionCase { field: "allowedUsers", users: &[0], pod_spec: json!({}), statuses }
            .check(podmeta, namespace)
            .await
    })
    .await
}

#[tokio::test]
async fn denied_users_of_a_pod_are_not_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let statuses = &[(0, "200"), (33, "403"), (1000, "200")];
        RestrictionCase { field: "deniedUsers", users: &[33], pod_spec: json!({}), statuses }
            .check(podmeta, namespace)
            .await
    })
    .await
}

/// The kernel reports the IDs of the node for the users of such a pod. Without a conversion, `deniedUsers` would match no user.
#[tokio::test]
async fn denied_users_of_a_pod_with_a_user_namespace_are_not_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let (pod_spec, statuses) = (json!({"hostUsers": false}), &[(0, "200"), (33, "403"), (1000, "200")]);
        RestrictionCase { field: "deniedUsers", users: &[33], pod_spec, statuses }.check(podmeta, namespace).await?;
        let map = namespace.run("web", &["cat", "/proc/self/uid_map"]).await?;
        let first_outside = map.split_whitespace().nth(1);
        ensure!(first_outside.is_some_and(|id| id != "0"), "the pod has no user namespace of its own: {map}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_allowed_users_of_a_pod_with_a_user_namespace_are_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let (pod_spec, statuses) = (json!({"hostUsers": false}), &[(0, "200"), (1000, "403")]);
        RestrictionCase { field: "allowedUsers", users: &[0], pod_spec, statuses }.check(podmeta, namespace).await
    })
    .await
}
