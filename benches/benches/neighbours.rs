//! Effect of one pod's calls to the operator on the first credentials of other pods. The broker of the agent, with its
//! lanes, calls the operator of the unit tests over HTTPS. Each call takes 40 ms there.
//!
//! Prints a table. Runs one round without `--bench`, which cargo adds.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark fails by panicking"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use podmeta_agent_api::calls::{CREDENTIALS, CredentialsResponse, DOCUMENT};
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::workload::{Link, Workload};
use podmeta_node_agent::broker::operator::SavedBrokerState;
use podmeta_node_agent::broker::{Broker, OperatorBroker};
use podmeta_node_agent::operator_client::{OperatorClient, OperatorEndpoint};

#[allow(dead_code, reason = "unit tests of the node agent use the rest")]
#[path = "../../node-agent/src/operator_client/test_operator.rs"]
mod test_operator;

use test_operator::{OperatorResponse, TestOperator};

/// Rounds of a benchmark. Each has a new broker and a new connection.
const ROUNDS: usize = 5;

/// Time that the operator takes for each call.
const CALL_TIME: Duration = Duration::from_millis(40);

/// Pods whose first credentials are measured, one after the other.
const MEASURED_PODS: usize = 25;

/// Requests for documents that the other pod keeps open.
const DOCUMENT_REQUESTS: usize = 100;

/// Delay before a rejected request for a document is repeated. The broker rejects requests over the pod's queue.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Load of the other pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherPodLoad {
    /// Nothing.
    Idle,
    /// Keeps requests for documents open, each with an audience of its own, so that none shares a call.
    Documents,
}

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let workloads = workloads(MEASURED_PODS + 2);
    println!("| documents of the other pod | median ms | maximum ms | document calls |");
    println!("| --- | --- | --- | --- |");
    for (neighbour, name) in
        [(OtherPodLoad::Idle, "none"), (OtherPodLoad::Documents, "100 at the same time, without end")]
    {
        let (mut times, mut documents) = (Vec::new(), 0);
        for _ in 0..rounds {
            let (of_round, calls) = runtime.block_on(round(&workloads, neighbour));
            times.extend(of_round);
            documents += calls;
        }
        times.sort_unstable();
        let milliseconds = |time: &Duration| time.as_secs_f64() * 1e3;
        let (median, maximum) = (milliseconds(&times[times.len() / 2]), milliseconds(times.last().unwrap()));
        println!("| {name} | {median:.0} | {maximum:.0} | {documents} |");
    }
}

/// Returns the times of the measured pods' first credentials, and the number of document calls.
async fn round(workloads: &[Arc<Workload>], neighbour: OtherPodLoad) -> (Vec<Duration>, usize) {
    let document_calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&document_calls);
    let operator = TestOperator::start("neighbours", move |call| {
        let is_document = call.path == DOCUMENT;
        counted.fetch_add(usize::from(is_document), Ordering::Relaxed);
        async move {
            tokio::time::sleep(CALL_TIME).await;
            respond(&call.path)
        }
    });
    let operator = operator.await;
    let broker = OperatorBroker::new(Arc::clone(&operator.client), SavedBrokerState::default());
    let broker = Arc::new(Broker::Operator(broker));
    let [other, first, measured @ ..] = workloads else { panic!("too few pods") };
    first_credentials(&broker, first).await; // opens the connection
    let requests = if neighbour == OtherPodLoad::Documents { DOCUMENT_REQUESTS } else { 0 };
    let requests = (0..requests)
        .map(|number| tokio::spawn(request_documents(Arc::clone(&broker), Arc::clone(other), number)))
        .collect::<Vec<_>>();
    tokio::time::sleep(CALL_TIME * 2).await;
    let mut times = Vec::new();
    for pod in measured {
        let started = Instant::now();
        first_credentials(&broker, pod).await;
        times.push(started.elapsed());
    }
    for request in requests {
        request.abort();
    }
    (times, document_calls.load(Ordering::Relaxed))
}

async fn first_credentials(broker: &Broker, workload: &Workload) {
    let role = workload.role(Dialect::Ec2).expect("the profile has a role");
    let credentials = broker.credentials(workload, Dialect::Ec2, role, Timestamp::now()).await;
    assert!(credentials.is_ok(), "{credentials:?}");
}

async fn request_documents(broker: Arc<Broker>, workload: Arc<Workload>, number: usize) {
    let link = Link::from_addresses(&workload.pod.uid, &[]);
    for repetition in 0_usize.. {
        let audience = Some(format!("audience-{number}-{repetition}"));
        if broker.document(&workload, &link, Dialect::Ecs, audience).await.is_err() {
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

fn respond(path: &str) -> OperatorResponse {
    let body = match path {
        CREDENTIALS => {
            let credentials = Credentials {
                access_key_id: "ASIAIOSFODNN7EXAMPLE".to_owned(),
                secret_access_key: SecretString::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
                session_token: SecretString::new("IQoJb3JpZ2luX2VjEXAMPLE".repeat(40)),
                last_updated: Timestamp::UNIX_EPOCH,
                expiration: Timestamp::MAX,
            };
            serde_json::to_string(&CredentialsResponse::Issued(credentials)).unwrap()
        }
        DOCUMENT => r#"{"document":"d","signature":"s","pkcs7":"p"}"#.to_owned(),
        _ => return (StatusCode::NOT_FOUND, String::new()),
    };
    (StatusCode::OK, body)
}

/// Returns pods with a role.
fn workloads(pods: usize) -> Vec<Arc<Workload>> {
    let mut text = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\n\
                    apiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {name: web}\n\
                    spec: {dialects: [ec2, ecs], roles: [{name: web, dialect: ec2, secret: {name: keys}}]}\n"
        .to_owned();
    for pod in 0..pods {
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{pod}}}\n\
             spec: {{nodeName: node-1, containers: [{{name: web, image: 'web:1'}}]}}\n"
        )
        .unwrap();
    }
    let (objects, errors) = load(&[ManifestFile { name: "pods.yaml".to_owned(), text }], Timestamp::UNIX_EPOCH);
    // The Secret of the role is not in the file: the operator has its data.
    assert!(objects.pods.len() == pods, "{errors:?}");
    let settings = Settings::default();
    let compile_pod = |facts| compile(facts, &objects.profiles, &objects.policies, &ConfigMapValues::new(), &settings);
    let served = |outcome| match outcome {
        Outcome::Served(workload) => Arc::from(workload),
        Outcome::Denied(_) | Outcome::Node(_) => panic!("the pod is not served: {outcome:?}"),
    };
    objects.pods.iter().map(|pod| served(compile_pod(&pod.facts).outcome)).collect()
}
