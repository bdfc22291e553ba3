//! Connections that stay open while the pod's profile changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::fixtures::profile;
use crate::kit::{self, eventually};

const OPEN_CONNECTION: &str = include_str!("scripts/open_connection.py");

/// Timeout until the first response on the connection.
const SERVED_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the profile `web`. It requires no tokens, and serves IPv6 too.
fn tokenless_profile(endpoint: &str) -> String {
    let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled", "httpEndpoint": endpoint});
    profile("web", json!({"dialects": ["ec2", "ecs"], "metadataOptions": options}))
}

#[tokio::test]
async fn open_connection_gets_403_after_the_profile_disables_the_endpoint() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.start_client("web", json!({})).await?;
        for address in ["169.254.169.254", "fd00:ec2::254", "100.100.100.200"] {
            namespace.apply(&tokenless_profile("enabled")).await?;
            podmeta.wait_until_programmed(namespace, "web", 1).await?;
            let disable = async || {
                eventually(SERVED_TIMEOUT, "the connection is served", async || {
                    namespace.run("web", &["rm", "/tmp/served"]).await.map(drop)
                })
                .await?;
                namespace.apply(&tokenless_profile("disabled")).await
            };
            let connection = ["python3", "-c", OPEN_CONNECTION, address];
            let (status, ()) = tokio::try_join!(namespace.run("web", &connection), disable())?;
            ensure!(status.trim() == "403", "{address}: {status}");
        }
        Ok(())
    })
    .await
}
