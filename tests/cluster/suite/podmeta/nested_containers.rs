//! Containers that a pod starts behind its own network namespace, as nested container runtimes do.

use std::time::Duration;

use anyhow::{Result, ensure};
use podmeta_cluster::images::CLIENT;
use serde_json::json;

use super::fixtures::profile;
use crate::kit::{self, TestNamespace, eventually};

/// Timeout until a changed profile is in effect.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Shell script that creates the network namespace `nested` behind the one of the pod, which masquerades its connections.
const NEST: &str = "set -e
mkdir -p /run
ip netns add nested
ip link add nested0 type veth peer name eth0 netns nested
ip addr add 192.0.2.1/24 dev nested0; ip -6 addr add fd00:2::1/64 dev nested0 nodad; ip link set nested0 up
ip -n nested addr add 192.0.2.2/24 dev eth0; ip -n nested -6 addr add fd00:2::2/64 dev eth0 nodad; ip -n nested link set eth0 up
ip -n nested route add default via 192.0.2.1; ip -n nested -6 route add default via fd00:2::1
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
nft 'table inet nested { chain out { type nat hook postrouting priority 100; oifname imds0 masquerade; }; }'";

/// Requests a token in the pod, and in the nested container. Returns the status of each, which is `000` without a response.
async fn token_statuses(namespace: &TestNamespace, address: &str) -> Result<[String; 2]> {
    let request = format!(
        "curl -gs -m 3 -o /dev/null -w '%{{http_code}}' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
         -H 'X-aliyun-ecs-metadata-token-ttl-seconds: 60' http://{address}/latest/api/token || true"
    );
    let nested = format!("ip netns exec nested sh -c \"{request}\"");
    let run = async |script: &str| namespace.run("outer", &["sh", "-c", script]).await;
    Ok([run(&request).await?, run(&nested).await?])
}

#[tokio::test]
async fn nested_container_gets_no_token_at_hop_limit_1_and_one_at_hop_limit_2() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let container = json!({
            "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
            "securityContext": {"privileged": true},
        });
        let with_limit = |limit: u8| {
            let options = json!({"httpPutResponseHopLimit": limit, "httpProtocolIpv6": "enabled"});
            profile("outer", json!({"dialects": ["ec2", "ecs"], "metadataOptions": options}))
        };
        namespace.apply(&with_limit(1)).await?;
        namespace.start_client("outer", json!({"containers": [container]})).await?;
        podmeta.wait_until_programmed(namespace, "outer", 1).await?;
        namespace.run("outer", &["sh", "-c", NEST]).await?;
        for (limit, nested) in [(1, "000"), (2, "200")] {
            namespace.apply(&with_limit(limit)).await?;
            for address in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"] {
                eventually(CHANGE_TIMEOUT, &format!("hop limit {limit} is in effect at {address}"), async || {
                    let statuses = token_statuses(namespace, address).await?;
                    ensure!(statuses == ["200", nested], "{statuses:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    })
    .await
}
