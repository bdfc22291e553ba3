//! Concurrent requests of one pod for credentials that are not cached. The agent shares them, so this does not test that the
//! operator does.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stub_sts::with_stub_sts;
use super::{aws_role_arn, role_profile};
use crate::kit;

/// Requests credentials in 100 processes at the same time. The stub responds to the operator only after all requests were sent.
/// Prints the number of processes by the session token that they got.
const REQUEST_IN_100_PROCESSES: &str = r#"
import collections, http.client, json, multiprocessing, sys, urllib.request

SERVICE = "169.254.169.254"
PATH = "/latest/meta-data/iam/security-credentials/web"
PROCESSES = 100

def token():
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "600"}
    request = urllib.request.Request(f"http://{SERVICE}/latest/api/token", method="PUT", headers=headers)
    return urllib.request.urlopen(request, timeout=30).read().decode()

def run(ready, sent, results):
    headers = {"X-aws-ec2-metadata-token": token()}
    connection = http.client.HTTPConnection(SERVICE, timeout=30)
    connection.connect()
    ready.wait(60)
    connection.request("GET", PATH, headers=headers)
    sent.wait(60)
    response = connection.getresponse()
    # A request that waited too long for the cloud gets an error. SDKs retry it.
    for _ in range(100):
        document = json.load(response)
        if document["Code"] == "Success":
            break
        connection = http.client.HTTPConnection(SERVICE, timeout=30)
        connection.request("GET", PATH, headers=headers)
        response = connection.getresponse()
    results.put(document.get("Token", document["Code"]))

ready, sent, results = multiprocessing.Barrier(PROCESSES), multiprocessing.Barrier(PROCESSES + 1), multiprocessing.Queue()
processes = [multiprocessing.Process(target=run, args=(ready, sent, results)) for _ in range(PROCESSES)]
for process in processes:
    process.start()
sent.wait(60)
urllib.request.urlopen(f"{sys.argv[1]}/release", data=b"", timeout=30).read()
print(json.dumps(collections.Counter(results.get(timeout=60) for _ in processes)))
"#;

#[tokio::test]
async fn hundred_processes_of_a_pod_cause_one_call_to_sts() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        with_stub_sts(podmeta, namespace, async |stub| {
            // The stub holds its response to calls for this role.
            let role = json!({"awsWebIdentity": {"roleArn": aws_role_arn("held")}});
            namespace.apply(&role_profile("web", "ec2", role)).await?;
            namespace.start_client("web", json!({})).await?;
            podmeta.wait_until_programmed(namespace, "web", 1).await?;
            let printed = namespace.run("web", &["python3", "-c", REQUEST_IN_100_PROCESSES, &stub.url]).await?;
            let calls = stub.calls().await?;
            let [call] = calls.as_slice() else { anyhow::bail!("the operator made {} calls: {calls:?}", calls.len()) };
            let mut expected = json!({});
            expected[format!("token-of-{}", call.session)] = 100.into();
            let counts: Value = serde_json::from_str(&printed)?;
            ensure!(counts == expected, "processes by their credentials: {counts}");
            Ok(())
        })
        .await
    })
    .await
}
