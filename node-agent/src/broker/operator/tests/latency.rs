//! Measures how long a pod waits for its first credentials while another pod requests documents. The operator takes 40 ms
//! for each call.

use futures_util::future::join_all;
use podmeta_agent_api::calls::DOCUMENT;

use super::isolation::{SIGNED, credentials_response};
use super::*;
use crate::operator_client::test_operator::TestOperator;

const CALL_TIME: Duration = Duration::from_millis(40);
const SAMPLES: usize = 25;

/// Returns the times until the first credentials of pods, in order.
async fn first_credentials(broker: &Arc<OperatorBroker>, prefix: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let pod = PodUid::try_from(format!("{prefix}{number}").as_str()).unwrap();
        let request = CredentialsRequest { pod, dialect: Dialect::Ec2, profile: None };
        let started = std::time::Instant::now();
        broker.cached_credentials(request, &role("keys"), Timestamp::UNIX_EPOCH).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times
}

/// Requests documents of one pod until it is dropped. All of them have audiences of their own.
async fn request_documents(broker: &Arc<OperatorBroker>) {
    let pod: PodUid = "attacker".try_into().unwrap();
    let link = Link::from_addresses(&pod, &[]);
    for round in 0.. {
        let documents = (0..100).map(|number| {
            let audience = format!("a{round}-{number}");
            broker.document(&pod, &link, Dialect::Ecs, Some(audience.clone()), audience)
        });
        join_all(documents).await;
    }
}

#[tokio::test]
#[ignore = "measures times; run it alone"]
async fn first_credentials_beside_documents_of_another_pod_take_less_than_twice_as_long() {
    let operator = TestOperator::start("latency", |call| async move {
        tokio::time::sleep(CALL_TIME).await;
        if call.path == DOCUMENT { (SIGNED.0, SIGNED.1.to_owned()) } else { credentials_response() }
    });
    let operator = operator.await;
    let broker = OperatorBroker::new(Arc::clone(&operator.client), SavedBrokerState::default());
    let alone = first_credentials(&broker, "alone").await;
    let beside = tokio::select! {
        times = first_credentials(&broker, "beside") => times,
        () = request_documents(&broker) => unreachable!("it has no end"),
    };
    for (name, times) in [("alone", &alone), ("beside documents of another pod", &beside)] {
        println!("{name}: median {:?}, maximum {:?}", times[SAMPLES / 2], times[SAMPLES - 1]);
    }
    assert!(beside[SAMPLES - 1] < alone[SAMPLES - 1] * 2);
}
