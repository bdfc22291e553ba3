//! The exact text of documents. Clients parse them, and signatures cover them.

use crate::credentials::{Credentials, CredentialsFailure, FailureCause};
use crate::dialect::Dialect;
use crate::fixture::{Case, link, text};
use crate::protocol::ecs::{
    document,
    json::{credentials, failure},
    tree,
};
use crate::secret::SecretString;

#[test]
fn identity_document_has_the_text_of_ecs() {
    let mut case = Case::full();
    case.settings.account = Some("111111111111".try_into().unwrap());
    let workload = case.workload();
    let part = workload.part(Dialect::Ecs).unwrap();
    let serial = text(&tree::render(&workload, &link()).unwrap(), "meta-data/serial-number").unwrap();
    let expected = format!(
        "{{\"zone-id\":\"eu-west-1a\",\"serial-number\":\"{serial}\",\"instance-id\":\"{}\",\"region-id\":\"eu-west-1\",\
         \"private-ipv4\":\"10.0.1.23\",\"owner-account-id\":\"111111111111\",\"mac\":\"02:00:00:aa:bb:cc\",\
         \"image-id\":\"{}\",\"instance-type\":\"m7i.large\",\"pod-namespace\":\"shop\",\"pod-name\":\"web\",\
         \"pod-uid\":\"uid-shop-web\",\"service-account-name\":\"default\"}}",
        part.instance_id, part.image_id
    );
    assert_eq!(document::document(&workload, &link(), None).unwrap(), expected);
}

#[test]
fn audience_is_an_additional_last_member() {
    let workload = Case::full().workload();
    let plain = document::document(&workload, &link(), None).unwrap();
    let with = |audience| document::document(&workload, &link(), Some(audience)).unwrap();
    assert_eq!(with("vault"), format!("{},\"audience\":\"vault\"}}", plain.strip_suffix('}').unwrap()));
    assert!(with(r#"{"aud":"x"}"#).ends_with(r#","audience":"{\"aud\":\"x\"}"}"#));
}

#[test]
fn unknown_members_of_the_identity_document_are_empty() {
    let document = document::document(&Case::new().workload(), &link(), None).unwrap();
    for key in ["zone-id", "region-id", "owner-account-id", "instance-type"] {
        assert!(document.contains(&format!("\"{key}\":\"\"")), "{key} in {document}");
    }
    let mut ec2_only = Case::new();
    ec2_only.profile_mut().dialects.remove(&Dialect::Ecs);
    assert_eq!(document::document(&ec2_only.workload(), &link(), None), None);
}

#[test]
fn credentials_have_only_the_members_of_ecs() {
    let body = credentials(&Credentials {
        access_key_id: "STS.Example".to_owned(),
        secret_access_key: SecretString::new("a/b+c".to_owned()),
        session_token: SecretString::new("quote\"".to_owned()),
        last_updated: "2026-01-05T08:22:00.5Z".parse().unwrap(),
        expiration: "2026-01-05T14:22:00Z".parse().unwrap(),
    });
    assert_eq!(
        body.as_str(),
        r#"{
  "AccessKeyId" : "STS.Example",
  "AccessKeySecret" : "a/b+c",
  "Expiration" : "2026-01-05T14:22:00Z",
  "SecurityToken" : "quote\"",
  "LastUpdated" : "2026-01-05T08:22:00Z",
  "Code" : "Success"
}"#
    );
}

#[test]
fn missing_credentials_are_a_code_without_a_key() {
    let at = "2026-01-05T08:22:00Z".parse().unwrap();
    let body = failure(&CredentialsFailure {
        code: "NoPermission".into(),
        message: "no \"trust\"".to_owned(),
        cause: FailureCause::AccessDenied,
        at,
    });
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "{\n  \"Message\" : \"no \\\"trust\\\"\",\n  \"LastUpdated\" : \"2026-01-05T08:22:00Z\",\n  \
         \"Code\" : \"NoPermission\"\n}"
    );
}
