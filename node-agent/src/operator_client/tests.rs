use std::time::Duration;

use super::test_operator::{TestCall, TestOperator};
use super::*;

/// Starts replicas behind one address: each new connection gets the next response of a cycle.
async fn start_replicas(name: &str, cycle: &'static [(StatusCode, &'static str)]) -> TestOperator {
    let respond = |number: usize| {
        let (status, body) = cycle[number % cycle.len()];
        (status, body.to_owned())
    };
    TestOperator::start(name, move |call| std::future::ready(respond(call.connection))).await
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

async fn post(operator: &TestOperator) -> Result<(), OperatorError> {
    operator.client.post(None, "/", &()).await
}

#[tokio::test]
async fn connection_to_a_replica_that_returns_5xx_is_dropped() {
    let cycle = &[(StatusCode::SERVICE_UNAVAILABLE, ""), (StatusCode::NO_CONTENT, "")];
    let replicas = start_replicas("unavailable", cycle).await;
    assert!(matches!(post(&replicas).await, Err(OperatorError::Status(StatusCode::SERVICE_UNAVAILABLE))));
    for _ in 0..3 {
        post(&replicas).await.unwrap();
    }
    assert_eq!(replicas.connections(), 2, "the connection to the second replica is kept");
}

#[tokio::test]
async fn connection_on_which_a_call_timed_out_is_not_used_again() {
    let replicas = TestOperator::start("silent", |call: TestCall| async move {
        if call.connection == 0 && call.path == "/silent" {
            std::future::pending::<()>().await;
        }
        (StatusCode::OK, "null".to_owned())
    })
    .await;
    let client = &replicas.client;
    client.call::<_, ()>("/", &(), in_seconds(60)).await.unwrap();
    let silent = client.call::<_, ()>("/silent", &(), in_seconds(0)).await;
    assert!(matches!(silent, Err(OperatorError::Timeout)), "{silent:?}");
    client.call::<_, ()>("/silent", &(), in_seconds(60)).await.unwrap();
    assert_eq!(replicas.connections(), 2);
}

#[tokio::test]
async fn replicas_that_all_return_5xx_get_a_burst_of_connections_and_no_more() {
    let replicas = start_replicas("all-unavailable", &[(StatusCode::SERVICE_UNAVAILABLE, "")]).await;
    let started = Instant::now();
    for _ in 0..50 {
        assert!(matches!(post(&replicas).await, Err(OperatorError::Status(_))));
    }
    let (connections, seconds) = (replicas.connections(), started.elapsed().as_secs());
    let allowed = usize::try_from(seconds).unwrap() + 1 + CONNECT_BURST as usize;
    assert!((2..=allowed).contains(&connections), "{connections} connections in {seconds} s");
}

#[tokio::test]
async fn late_5xx_of_a_dropped_connection_keeps_the_new_one() {
    let replicas = start_replicas("late", &[(StatusCode::NO_CONTENT, "")]).await;
    let client = &replicas.client;
    let number = || client.https_client(std::fs::read(replicas.directory.join("ca.crt")).unwrap()).unwrap().1;
    let first = number();
    client.change_replica(first);
    let second = number();
    client.change_replica(first);
    assert_eq!(number(), second);
    client.change_replica(second);
    assert_ne!(number(), second);
}

#[tokio::test]
async fn status_410_is_version_expired_and_421_names_the_leader() {
    const NOT_LEADER: (StatusCode, &str) =
        (StatusCode::MISDIRECTED_REQUEST, r#"{"message":"not the leader","leader":"10.0.0.2:8443"}"#);
    let replicas = start_replicas("misdirected", &[NOT_LEADER]).await;
    let error = post(&replicas).await.unwrap_err();
    assert!(matches!(error, OperatorError::Rejected { leader: Some(leader), .. } if leader == "10.0.0.2:8443"));
    let replicas = start_replicas("gone", &[(StatusCode::GONE, "")]).await;
    assert!(matches!(post(&replicas).await, Err(OperatorError::VersionExpired)));
}

#[tokio::test]
async fn server_with_a_certificate_of_another_ca_is_unreachable() {
    let replicas = start_replicas("other-ca", &[(StatusCode::NO_CONTENT, "")]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(replicas.directory.join("ca.crt"), other.pem()).unwrap();
    assert!(matches!(post(&replicas).await, Err(OperatorError::Unreachable(_))));
}

#[tokio::test]
async fn missing_token_file_is_an_error_that_names_the_file() {
    let replicas = start_replicas("no-token", &[(StatusCode::NO_CONTENT, "")]).await;
    std::fs::remove_file(replicas.directory.join("token")).unwrap();
    let error = post(&replicas).await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
}

/// A named pipe blocks its reader until another process opens it for writing.
#[cfg(unix)]
#[tokio::test]
async fn token_file_that_blocks_its_reader_does_not_block_the_runtime() {
    let replicas = start_replicas("blocked-token", &[(StatusCode::NO_CONTENT, "")]).await;
    let token = replicas.directory.join("token");
    std::fs::remove_file(&token).unwrap();
    nix::unistd::mkfifo(&token, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (done_tx, done_rx) = std::sync::mpsc::channel::<()>();
    // Ends the wait of a blocked runtime, so that the test fails instead of hanging.
    let unblocking = std::thread::spawn(move || {
        let in_time = done_rx.recv_timeout(Duration::from_secs(5)).is_ok();
        drop(std::fs::File::options().write(true).open(&token));
        in_time
    });
    assert!(tokio::time::timeout(Duration::from_millis(100), post(&replicas)).await.is_err());
    let _sent = done_tx.send(());
    assert!(unblocking.join().unwrap());
}

#[tokio::test]
async fn error_of_a_response_of_another_version_does_not_contain_its_values() {
    let replicas = start_replicas("skewed", &[(StatusCode::OK, r#""s3cret""#)]).await;
    let called = replicas.client.call::<_, CallError>("/", &(), in_seconds(60)).await.unwrap_err().to_string();
    let got = replicas.client.get_json::<CallError>("/").await.unwrap_err().to_string();
    for error in [called, got] {
        assert!(error.contains("line 1, column") && !error.contains("s3cret"), "{error}");
    }
}
