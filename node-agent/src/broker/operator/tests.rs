mod isolation;

use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::role::Provider;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::Link;

use super::*;
use crate::operator_client::OperatorEndpoint;
use crate::operator_client::test_operator::TestOperator;

pub(super) fn unreachable_broker(saved: SavedBrokerState) -> Arc<OperatorBroker> {
    let url = "https://operator".parse().unwrap();
    let endpoint = OperatorEndpoint { url, ca: "/none".into(), token: "/none".into() };
    OperatorBroker::new(OperatorClient::new(endpoint), saved)
}

fn role(secret: &str) -> Role {
    let provider = Provider::Secret { name: secret.to_owned() };
    Role { name: "r".to_owned().try_into().unwrap(), provider }
}

#[test]
fn credentials_of_one_role_are_not_returned_for_another() {
    let pod: PodUid = "u1".try_into().unwrap();
    let credentials = Credentials {
        access_key_id: "AKIA".into(),
        secret_access_key: SecretString::new("s".into()),
        session_token: SecretString::new(String::new()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::MAX,
    };
    let value = RoleCredentials { role: role("one"), credentials: credentials.clone() };
    let record = PodRecord { pod: pod.clone(), dialect: Dialect::Ec2, value };
    let broker = unreachable_broker(SavedBrokerState { credentials: vec![record], ..SavedBrokerState::default() });
    assert_eq!(broker.cache(&pod, Dialect::Ec2, &role("one")).credentials().unwrap().credentials(), &credentials);
    assert_eq!(broker.cache(&pod, Dialect::Ec2, &role("two")).credentials(), None);
    assert_eq!(broker.cache(&pod, Dialect::Ec2, &role("one")).credentials(), None, "the cache was replaced");
    assert_eq!(broker.saved_state(), SavedBrokerState::default());
}

#[tokio::test]
async fn saved_credentials_are_served_while_the_provider_is_unavailable_and_not_if_it_denies_them() {
    let pod: PodUid = "u1".try_into().unwrap();
    let credentials = Credentials {
        access_key_id: "AKIA".into(),
        secret_access_key: SecretString::new("s".into()),
        session_token: SecretString::new(String::new()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::MAX,
    };
    for (cause, is_served) in [
        (FailureCause::ProviderUnavailable, true),
        (FailureCause::TokenRequestForbidden, true),
        (FailureCause::ExpiredToken, true),
        (FailureCause::AccessDenied, false),
    ] {
        let failure = CredentialsFailure::failed("no".into(), cause, Timestamp::UNIX_EPOCH);
        let body = serde_json::to_string(&CredentialsResponse::Failed(failure)).unwrap();
        let response = move |_| std::future::ready((http::StatusCode::OK, body.clone()));
        let operator = TestOperator::start("provider", response).await;
        let value = RoleCredentials { role: role("keys"), credentials: credentials.clone() };
        let record = PodRecord { pod: pod.clone(), dialect: Dialect::Ec2, value };
        let saved = SavedBrokerState { credentials: vec![record], ..SavedBrokerState::default() };
        let broker = OperatorBroker::new(Arc::clone(&operator.client), saved);
        let request = CredentialsRequest { pod: pod.clone(), dialect: Dialect::Ec2, profile: None };
        let cache = broker.cache(&pod, Dialect::Ec2, &role("keys"));
        let result = broker.refresh(request, cache, Timestamp::UNIX_EPOCH).await;
        assert_eq!(result.is_ok(), is_served, "{cause} {result:?}");
        let outcome = &broker.outcomes()[&pod][&Dialect::Ec2];
        assert_eq!(outcome.as_ref().map(|failure| failure.cause), (!is_served).then_some(cause));
    }
}

#[tokio::test(start_paused = true)]
async fn cached_document_is_returned_without_the_operator_if_its_text_matches() {
    let pod: PodUid = "u1".try_into().unwrap();
    let signed = SignedDocument { document: "one".into(), signature: "s".into(), pkcs7: "p".into() };
    let document = PodRecord { pod: pod.clone(), dialect: Dialect::Ec2, value: signed.clone() };
    let broker = unreachable_broker(SavedBrokerState { documents: vec![document], ..SavedBrokerState::default() });
    let link = Link::from_addresses(&pod, &[]);
    let document = async |dialect, text: &str| broker.document(&pod, &link, dialect, None, text.to_owned()).await;
    assert_eq!(document(Dialect::Ec2, "one").await, Ok(signed));
    assert!(document(Dialect::Ec2, "other").await.is_err());
    assert!(document(Dialect::Ecs, "one").await.is_err());
    assert!(broker.document(&pod, &link, Dialect::Ec2, Some("a".into()), "one".into()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_document_with_an_audience_does_not_block_the_cached_one_without() {
    let pod: PodUid = "u1".try_into().unwrap();
    let signed = SignedDocument { document: "one".into(), signature: "s".into(), pkcs7: "p".into() };
    let document = PodRecord { pod: pod.clone(), dialect: Dialect::Ec2, value: signed.clone() };
    let broker = unreachable_broker(SavedBrokerState { documents: vec![document], ..SavedBrokerState::default() });
    let link = Link::from_addresses(&pod, &[]);
    assert!(broker.document(&pod, &link, Dialect::Ec2, Some("a".into()), "two".into()).await.is_err());
    assert_eq!(broker.document(&pod, &link, Dialect::Ec2, None, "one".into()).await, Ok(signed));
}
