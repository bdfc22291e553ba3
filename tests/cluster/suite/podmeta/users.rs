//! Profiles that restrict the users of a pod.

use anyhow::{Result, ensure};
use serde_json::json;

use super::fixtures::profile;
use crate::kit::{self, TestNamespace};

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

#[tokio::test]
async fn only_allowed_users_of_a_pod_are_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.apply(&restricted_profile("allowedUsers", &[0])).await?;
        namespace.start_client("web", json!({})).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        for address in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"] {
            for (user, expected) in [(0, "200"), (1000, "403")] {
                let printed = status(namespace, user, address).await?;
                ensure!(printed == expected, "user {user} at {address}: {printed}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn denied_users_of_a_pod_are_not_served() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.apply(&restricted_profile("deniedUsers", &[33])).await?;
        namespace.start_client("web", json!({})).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        for (user, expected) in [(0, "200"), (33, "403"), (1000, "200")] {
            let printed = status(namespace, user, "169.254.169.254").await?;
            ensure!(printed == expected, "user {user}: {printed}");
        }
        Ok(())
    })
    .await
}
