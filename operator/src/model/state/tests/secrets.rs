//! Secrets and roles of profiles.

use super::*;

fn secret_update(data: Option<&[&str]>) -> StateUpdate {
    let value = |key: &&str| ((*key).to_owned(), b"x".to_vec());
    let data = data.map(|keys| keys.iter().map(value).collect());
    StateUpdate::Secret { namespace: "shop".into(), name: "keys".into(), data }
}

#[test]
fn secret_that_cannot_be_used_is_an_error_of_role_and_user_data() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::SecretsUnread(SecretScope::Cluster));
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ROLE_AND_USER_DATA))));
    assert_eq!(state.index().secret("shop", "keys"), Err(SecretUnavailable::Unread));
    let observed = observe_web(&state);
    assert!(observed.secret_errors.is_empty() && observed.findings.is_empty(), "the Secret was not read yet");

    state.take_changed_profiles();
    apply(&mut state, StateUpdate::SecretsListed(SecretScope::Cluster));
    assert_eq!(state.index().secret("shop", "keys"), Err(SecretUnavailable::NotUsable));
    assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]));
    let observed = observe_web(&state);
    let message = not_usable("shop", "keys");
    assert!(!observed.secret_errors[0].is_usable);
    assert_eq!(observed.secret_errors[0].error.to_string(), format!("spec.roles[dialect=ec2].secret.name: {message}"));
    assert_eq!(
        (observed.findings[0].reason, &observed.findings[0].message),
        (FindingReason::UserDataUnavailable, &message)
    );

    apply(&mut state, secret_update(Some(&["boot"])));
    assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]));
    let observed = observe_web(&state);
    assert!(observed.findings.is_empty() && observed.secret_errors[0].is_usable);
    let error = &observed.secret_errors[0].error.message;
    assert!(error.contains("accessKeyId is missing"), "{error}");
    apply(&mut state, secret_update(Some(&["boot", "accessKeyId", "secretAccessKey"])));
    let observed = observe_web(&state);
    assert!(observed.secret_errors.is_empty());
    let [warning] = &observed.secret_warnings[..] else { panic!("{:?}", observed.secret_warnings) };
    assert_eq!(warning.field, "spec.roles[dialect=ec2].secret.name");
    assert!(warning.message.contains("no sessionToken"), "{warning}");
    apply(&mut state, secret_update(Some(&["boot", "accessKeyId", "secretAccessKey", "sessionToken"])));
    let observed = observe_web(&state);
    assert!(observed.secret_errors.is_empty() && observed.secret_warnings.is_empty());
    apply(&mut state, secret_update(None));
    assert_eq!(state.index().secret("shop", "keys"), Err(SecretUnavailable::NotUsable));
}

#[test]
fn secrets_of_a_namespace_that_was_not_listed_are_unread() {
    let mut state = new_state();
    state.apply(StateUpdate::SecretsUnread(SecretScope::Namespace("shop".into())));
    assert_eq!(state.index().secret("shop", "keys"), Err(SecretUnavailable::Unread));
    assert_eq!(state.index().secret("attic", "keys"), Err(SecretUnavailable::NotUsable));
    state.apply(StateUpdate::SecretsListed(SecretScope::Namespace("shop".into())));
    assert_eq!(state.index().secret("shop", "keys"), Err(SecretUnavailable::NotUsable));
}

#[test]
fn status_does_not_depend_on_a_secret_that_a_policy_forbids() {
    let policy = |secrets: &str| {
        let globs = vec![Glob::try_from(secrets).unwrap()];
        let policy = Policy { name: "p".into(), allowed_secrets: Some(globs), ..Policy::default() };
        StateUpdate::Policy(Box::new(PolicyObject { name: "p".into(), spec: Ok(policy) }))
    };
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ROLE_AND_USER_DATA))));
    assert_eq!(observe_web(&state).secret_errors.len(), 1);
    state.take_changed_profiles();
    apply(&mut state, policy("others"));
    assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]));
    let observe = |state: &OperatorState| {
        let observed = observe_web(state);
        (observed.secret_errors, observed.secret_warnings, observed.findings)
    };
    let without = observe(&state);
    assert!(without.0.is_empty() && without.1.is_empty());
    assert!(without.2.iter().all(|finding| finding.reason == FindingReason::PolicyForbids));
    for keys in [&["boot"][..], &["boot", "accessKeyId", "secretAccessKey"]] {
        apply(&mut state, secret_update(Some(keys)));
        assert_eq!(observe(&state), without);
    }
    apply(&mut state, policy("key?"));
    let allowed = observe(&state);
    assert!(allowed.0.is_empty() && allowed.2.is_empty());
    assert_eq!(allowed.1.len(), 1, "the key has no session token");
}

#[test]
fn credentials_of_an_unread_secret_are_retried_later() {
    let mut state = new_state();
    let role = ", roles: [{name: r, dialect: ec2, secret: {name: keys}}]";
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, role))));
    apply(&mut state, StateUpdate::SecretsUnread(SecretScope::Cluster));
    let request = CredentialsRequest { pod: uid(), dialect: Dialect::Ec2, profile: None };
    let credentials = |state: &OperatorState| {
        let pod = state.pod_on_node("n1", &uid()).unwrap();
        let cluster = "cluster".parse().unwrap();
        broker::role_source(state, pod, "n1", &request, &cluster, Timestamp::UNIX_EPOCH)
    };
    assert_eq!(credentials(&state), Err(BrokerError::Behind), "the agent retries and serves cached credentials");
    apply(&mut state, StateUpdate::SecretsListed(SecretScope::Cluster));
    let Ok(RoleSource::Ready(CredentialsResponse::Failed(failure))) = credentials(&state) else {
        panic!("{:?}", credentials(&state));
    };
    assert_eq!(failure.message, not_usable("shop", "keys"));
}

#[test]
fn external_id_of_a_role_is_that_of_its_namespace_or_one_that_a_policy_allows() {
    let policy = Policy {
        name: "p".into(),
        allowed_providers: Some([ProviderKind::AwsAssumeRole].into()),
        allowed_role_arns: Some(vec![Glob::try_from("*").unwrap()]),
        allowed_external_ids: Some(vec![Glob::try_from("partner-?").unwrap()]),
        ..Policy::default()
    };
    let request = CredentialsRequest { pod: uid(), dialect: Dialect::Ec2, profile: None };
    for (external_id, expected) in [
        ("", Some("cluster/shop")),
        (", externalId: cluster/shop", Some("cluster/shop")),
        (", externalId: partner-1", Some("partner-1")),
        (", externalId: cluster/other", None),
        (", externalId: partner-10", None),
    ] {
        let mut state = new_state();
        let policy = PolicyObject { name: "p".into(), spec: Ok(policy.clone()) };
        apply(&mut state, StateUpdate::Policy(Box::new(policy)));
        let role = format!("awsAssumeRole: {{roleArn: 'arn:aws:iam::123456789012:role/web'{external_id}}}");
        let roles = format!(", roles: [{{name: r, dialect: ec2, {role}}}]");
        apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, &roles))));
        let pod = state.pod_on_node("n1", &uid()).unwrap();
        let cluster = "cluster".parse().unwrap();
        match broker::role_source(&state, pod, "n1", &request, &cluster, Timestamp::UNIX_EPOCH).unwrap() {
            RoleSource::Cloud(role) => {
                let CloudRole::AwsAssumeRole { external_id, .. } = role.role else { panic!("{role:?}") };
                assert_eq!(Some(external_id.as_str()), expected);
            }
            RoleSource::Ready(CredentialsResponse::Failed(failure)) => {
                assert_eq!((expected, failure.cause), (None, FailureCause::PolicyForbids), "{external_id} {failure}");
            }
            RoleSource::Ready(response) => panic!("{external_id} {response:?}"),
        }
    }
}

#[test]
fn user_data_of_another_key_is_rejected() {
    let mut state = new_state();
    let user_data = ", userData: {secretKeyRef: {name: keys, key: new}}";
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, user_data))));
    let data = [("old", "o"), ("new", "n")].map(|(key, text)| (key.to_owned(), text.into()));
    let data = Some(data.into_iter().collect());
    apply(&mut state, StateUpdate::Secret { namespace: "shop".into(), name: "keys".into(), data });
    let user_data = |key: &str| {
        let key = KeyRef { name: "keys".into(), key: key.into() };
        broker::user_data(&state, state.pod_on_node("n1", &uid()).unwrap(), &key)
    };
    assert_eq!(user_data("new").unwrap().data.expose(), "bg==");
    assert_eq!(user_data("old"), Err(BrokerError::Behind));
}
