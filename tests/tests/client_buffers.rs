//! Sizes that a client may hold in a fixed buffer, for a pod with the longest names that Kubernetes and the CRDs allow.
//! Each bound names the client and its source file. The clouds' own values are shorter than every bound.

use podmeta_metadata::dialect::Dialect;
use podmeta_tests::conformance::case::ConformanceCase;
use podmeta_tests::conformance::{CaseFile, cases_dir, run_cases};
use serde_json::{Value, json};

/// A bound of one client for the response to one request.
struct SizeBound {
    /// The client's repository, file and constant.
    source: &'static str,
    dialect: Dialect,
    request: &'static str,
    /// Maximum length of the body in bytes.
    body: usize,
    /// Maximum length of the status line and the headers in bytes.
    head: usize,
}

/// Maximum length of one header line of BusyBox wget: networking/wget.c, `wget_buf`, with `FEATURE_COPYBUF_KB=4`.
/// The bounds use it for the whole head.
const WGET_LINE: usize = 4095;

/// Fluent Bit, include/fluent-bit/flb_http_client.h, `FLB_HTTP_DATA_SIZE_MAX`: 4096 bytes for head and body together.
const FLUENT_BIT: (usize, usize) = (3072, 1024);

const AWS_C_AUTH_TOKEN: &str = "aws-c-auth, source/aws_imds_client.c, IMDS_RESPONSE_TOKEN_SIZE_INITIAL";
const AWS_C_AUTH_CREDENTIALS: &str = "aws-c-auth to 0.3, source/credentials_provider_imds.c, IMDS_RESPONSE_SIZE_LIMIT";
const AWS_C_AUTH_RESPONSE: &str = "aws-c-auth, source/aws_imds_client.c, IMDS_RESPONSE_SIZE_LIMIT";
const ARKIME_URL: &str = "arkime, capture/plugins/writer-s3.c, credURL[1024]";
const FLUENT_BIT_BUFFER: &str = "fluent-bit, include/fluent-bit/flb_http_client.h, FLB_HTTP_DATA_SIZE_MAX";
const LOONGCOLLECTOR_ID: &str = "loongcollector, core/common/EcsMetaData.h, ID_MAX_LENGTH less the NUL";

const EC2: Dialect = Dialect::Ec2;
const ECS: Dialect = Dialect::Ecs;

/// Length of the path before the role: `http://169.254.169.254/latest/meta-data/iam/security-credentials/`.
const ROLE_URL: usize = 65;

const BOUNDS: &[SizeBound] = &[
    bound(AWS_C_AUTH_TOKEN, EC2, "PUT /latest/api/token", 64, WGET_LINE),
    // Alibaba Cloud's SDKs are written in languages without fixed buffers. The bound of EC2 is kept.
    bound(AWS_C_AUTH_TOKEN, ECS, "PUT /latest/api/token", 64, WGET_LINE),
    bound(AWS_C_AUTH_CREDENTIALS, EC2, "GET /latest/meta-data/iam/security-credentials/${role}", 10_000, WGET_LINE),
    bound(AWS_C_AUTH_CREDENTIALS, ECS, "GET /latest/meta-data/ram/security-credentials/${role}", 10_000, WGET_LINE),
    bound(AWS_C_AUTH_RESPONSE, EC2, "GET /latest/user-data", 65_535, WGET_LINE),
    bound(ARKIME_URL, EC2, "GET /latest/meta-data/iam/security-credentials/", 1023 - ROLE_URL, WGET_LINE),
    bound("IAM CreateRole, RoleName", EC2, "GET /latest/meta-data/iam/security-credentials/", 64, WGET_LINE),
    bound("RAM CreateRole, RoleName", ECS, "GET /latest/meta-data/ram/security-credentials/", 64, WGET_LINE),
    fluent_bit("PUT /latest/api/token"),
    fluent_bit("GET /latest/meta-data/iam/security-credentials/"),
    fluent_bit("GET /latest/meta-data/instance-id/"),
    fluent_bit("GET /latest/meta-data/instance-type/"),
    fluent_bit("GET /latest/meta-data/ami-id/"),
    fluent_bit("GET /latest/meta-data/hostname/"),
    fluent_bit("GET /latest/meta-data/placement/availability-zone/"),
    fluent_bit("GET /latest/meta-data/mac/"),
    fluent_bit("GET /latest/dynamic/instance-identity/document/"),
    bound(LOONGCOLLECTOR_ID, ECS, "GET /latest/meta-data/instance-id", 127, WGET_LINE),
    bound(LOONGCOLLECTOR_ID, ECS, "GET /latest/meta-data/owner-account-id", 127, WGET_LINE),
    bound(LOONGCOLLECTOR_ID, ECS, "GET /latest/meta-data/region-id", 127, WGET_LINE),
    bound(LOONGCOLLECTOR_ID, ECS, "GET /latest/meta-data/zone-id", 127, WGET_LINE),
];

const fn bound(source: &'static str, dialect: Dialect, request: &'static str, body: usize, head: usize) -> SizeBound {
    SizeBound { source, dialect, request, body, head }
}

const fn fluent_bit(request: &'static str) -> SizeBound {
    bound(FLUENT_BIT_BUFFER, EC2, request, FLUENT_BIT.0, FLUENT_BIT.1)
}

/// Returns a DNS subdomain of 253 characters, the longest name of most objects.
fn longest_name(letter: &str) -> String {
    let label = letter.repeat(63);
    format!("{label}.{label}.{label}.{}", letter.repeat(61))
}

/// Returns the pod, its profile and everything that they refer to.
fn longest_objects() -> Vec<Value> {
    let (namespace, label, role, name) = ("n".repeat(63), "l".repeat(63), "r".repeat(64), longest_name("p"));
    let tags = (0..50).map(|i| json!({"key": format!("{}{i:02}", "t".repeat(126)), "value": "v".repeat(256)}));
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHS+/I+AsRnyh/JOYeSWZn+VPbvb652fvu/t9OaqgCtw";
    let keys = (0..16).map(|i| json!({"name": format!("{}{i:02}", "k".repeat(126)), "openSshKey": key}));
    let roles = ["ec2", "ecs"].map(|dialect| json!({"name": role, "dialect": dialect, "secret": {"name": "longest"}}));
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": "accounts"},
            "spec": {"allowedAccountIds": ["9".repeat(20)]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": longest_name("o"), "labels": {
            "topology.kubernetes.io/region": label,
            "topology.kubernetes.io/zone": format!("{}a", &label[1..]),
            "topology.k8s.aws/zone-id": label,
            "node.kubernetes.io/instance-type": label,
        }}}),
        // STS documents no maximum of its tokens. Known ones have up to 1.5 KB. The Secret has 4 KiB.
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "longest", "namespace": namespace,
            "labels": {"podmeta.dev/usable-by": "metadataprofiles"}},
            "stringData": {"accessKeyId": "A".repeat(128), "secretAccessKey": "s".repeat(128), "sessionToken": "T".repeat(4096)}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace,
            "uid": "ffffffff-ffff-4fff-bfff-ffffffffffff", "creationTimestamp": "2026-01-05T08:00:00Z",
            "labels": {"app": label}},
            "spec": {"nodeName": longest_name("o"), "hostname": "h".repeat(63), "subdomain": "d".repeat(63),
                "serviceAccountName": name, "containers": [{"name": "c".repeat(63), "image": "registry.example/app:1.0"}]},
            "status": {"podIPs": [{"ip": "100.100.100.100"}, {"ip": "2001:db8:1010:1010:1010:1010:1010:1010"}]}}),
        json!({"apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataProfile",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {"matchLabels": {"app": label}}, "dialects": ["ec2", "ecs"],
                "metadataOptions": {"instanceMetadataTags": "enabled"}, "userData": {"inline": "u".repeat(16_384)},
                "instance": {"accountId": "9".repeat(20)},
                "publicKeys": keys.collect::<Vec<_>>(), "tags": {"static": tags.collect::<Vec<_>>()}, "roles": roles}}),
    ]
}

/// Returns a case that the pod sends. `steps` is JSON.
fn case(dialect: Dialect, name: String, source: &str, steps: &Value) -> CaseFile {
    let pod = format!("{}/{}", "n".repeat(63), longest_name("p"));
    let case = json!({"rule": name, "source": source, "pod": pod, "patch": longest_objects(), "steps": steps});
    CaseFile { dialect, name, case: ConformanceCase::read(&case.to_string()) }
}

/// Returns the case that checks one bound.
fn bound_case(bound: &SizeBound) -> CaseFile {
    let request = bound.request.replace("${role}", &"r".repeat(64));
    let ttl = match bound.dialect {
        EC2 => "X-aws-ec2-metadata-token-ttl-seconds: 21600",
        ECS => "X-aliyun-ecs-metadata-token-ttl-seconds: 21600",
    };
    let headers = if request.starts_with("PUT") { vec![ttl] } else { Vec::new() };
    let expect = json!({"status": 200, "max-length": bound.body, "max-head": bound.head});
    let steps = json!([{"token": {"as": "t"}}, {"send": request, "with": "t", "headers": headers, "expect": expect}]);
    case(bound.dialect, format!("{} within {}", bound.request, bound.source), bound.source, &steps)
}

fn assert_pass(cases: &[CaseFile]) {
    let failures = run_cases(&cases_dir(), cases);
    let report = failures.iter().map(|failure| format!("{}: {}\n", failure.file, failure.report)).collect::<String>();
    assert!(failures.is_empty(), "{report}");
}

#[test]
fn responses_to_the_longest_pod_fit_into_the_buffers_of_clients() {
    assert_pass(&BOUNDS.iter().map(bound_case).collect::<Vec<_>>());
}

/// `crawl` limits each item and listing to the buffer of aws-c-auth.
#[test]
fn items_and_listings_of_the_longest_pod_fit_into_the_buffers_of_clients() {
    let crawl = |dialect: Dialect| {
        let crawl = |directory: &str| json!({"crawl": directory, "with": "t"});
        let steps =
            json!([{"token": {"as": "t"}}, crawl("/latest/meta-data/"), crawl("/latest/dynamic/instance-identity/")]);
        case(dialect, "Items and listings".to_owned(), AWS_C_AUTH_RESPONSE, &steps)
    };
    assert_pass(&Dialect::ALL.map(crawl));
}

/// The harness reports a response that is one byte too long.
#[test]
fn response_over_a_bound_is_reported() {
    let over = bound("one less than a token", EC2, "PUT /latest/api/token", 55, WGET_LINE);
    let head = bound("less than a head", EC2, "PUT /latest/api/token", 64, 20);
    assert_eq!(run_cases(&cases_dir(), &[bound_case(&over), bound_case(&head)]).len(), 2);
}
