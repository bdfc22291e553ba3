//! The SDK of Alibaba Cloud in a pod with the role of a profile.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stub_sts::with_stub_sts;
use super::{aliyun_role, role_profile};
use crate::kit::{self, eventually};

/// Prints the credentials of the SDK as JSON. Nothing is configured but the source.
const GET_CREDENTIALS: &str = "
import json
from alibabacloud_credentials.client import Client
from alibabacloud_credentials.models import Config
got = Client(Config(type='ecs_ram_role', disable_imds_v1=True)).get_credential()
print(json.dumps([got.access_key_id, got.access_key_secret, got.security_token]))
";

#[tokio::test]
async fn alibaba_cloud_sdk_gets_credentials_of_aliyun_oidc() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        with_stub_sts(podmeta, namespace, async |stub| {
            namespace.apply(&role_profile("web", "ecs", aliyun_role("web"))).await?;
            namespace.start_client("web", json!({})).await?;
            podmeta.wait_until_programmed(namespace, "web", 1).await?;
            let printed = eventually(Duration::from_secs(30), "the SDK gets credentials", async || {
                namespace.run("web", &["python3", "-c", GET_CREDENTIALS]).await
            })
            .await?;
            let credentials: Value = serde_json::from_str(&printed)?;
            let calls = stub.calls().await?;
            let [call] = calls.as_slice() else { anyhow::bail!("the operator made these calls: {calls:?}") };
            ensure!(call.role == "web" && call.session.contains(".web."), "{call:?}");
            let expected = json!(["STS.web", "secret-of-web", format!("token-of-{}", call.session)]);
            ensure!(credentials == expected, "{credentials}, expected {expected}");
            Ok(())
        })
        .await
    })
    .await
}
