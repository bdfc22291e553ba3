//! The exact text of documents. Clients parse them, some by columns, and signatures cover them.

use jiff::Timestamp;

use super::render;
use crate::credentials::{Credentials, CredentialsFailure, FailureCause};
use crate::dialect::Dialect;
use crate::fixture::{Case, link, text};
use crate::protocol::ec2::{
    document,
    json::{credentials, failure},
};
use crate::secret::SecretString;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn identity_document_has_the_text_of_ec2() {
    let mut case = Case::full();
    case.settings.account = Some("111111111111".try_into().unwrap());
    let workload = case.workload();
    let (image, instance) =
        workload.part(Dialect::Ec2).as_ref().map(|part| (&part.image_id, &part.instance_id)).unwrap();
    let expected = format!(
        r#"{{
  "accountId" : "111111111111",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-west-1a",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : "{image}",
  "instanceId" : "{instance}",
  "instanceType" : "m7i.large",
  "kernelId" : null,
  "pendingTime" : "2026-01-05T08:00:00Z",
  "privateIp" : "10.0.1.23",
  "ramdiskId" : null,
  "region" : "eu-west-1",
  "version" : "2017-09-30",
  "podNamespace" : "shop",
  "podName" : "web",
  "podUid" : "uid-shop-web",
  "serviceAccountName" : "default"
}}"#
    );
    assert_eq!(document::document(&workload, &link()).unwrap(), expected);
}

#[test]
fn unknown_members_of_the_identity_document_are_null() {
    let document = document::document(&Case::new().workload(), &link()).unwrap();
    for key in ["accountId", "architecture", "availabilityZone", "instanceType", "region"] {
        assert!(document.contains(&format!("\n  \"{key}\" : null,\n")), "{key} in {document}");
    }
    let mut ecs_only = Case::new();
    ecs_only.profile_mut().dialects.remove(&Dialect::Ec2);
    assert_eq!(document::document(&ecs_only.workload(), &link()), None);
}

#[test]
fn iam_documents_have_the_layout_of_ec2() {
    let tree = render(&Case::full());
    let info = text(&tree, "meta-data/iam/info").unwrap();
    let (start, id) = info.split_once("  \"InstanceProfileId\" : \"").unwrap();
    assert_eq!(
        start,
        "{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-01-05T08:00:00Z\",\n  \"InstanceProfileArn\" : \
         \"arn:aws:iam::123456789012:instance-profile/web-role\",\n"
    );
    let id = id.strip_suffix("\"\n}").unwrap();
    assert!(id.starts_with("AIPA") && id.len() == 21 && !id.contains(char::is_lowercase), "{id}");
    assert_eq!(
        text(&tree, "meta-data/identity-credentials/ec2/info").unwrap(),
        "{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-01-05T08:00:00Z\",\n  \"AccountId\" : \"123456789012\"\n}"
    );
}

#[test]
fn credentials_have_the_members_and_layout_of_ec2() {
    let body = credentials(&Credentials {
        access_key_id: "ASIAEXAMPLE".to_owned(),
        secret_access_key: SecretString::new("a/b+c".to_owned()),
        session_token: SecretString::new("quote\"".to_owned()),
        last_updated: at("2026-01-05T08:22:00.5Z"),
        expiration: at("2026-01-05T14:40:11Z"),
    });
    assert_eq!(
        body.as_str(),
        r#"{
  "Code" : "Success",
  "LastUpdated" : "2026-01-05T08:22:00Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "ASIAEXAMPLE",
  "SecretAccessKey" : "a/b+c",
  "Token" : "quote\"",
  "Expiration" : "2026-01-05T14:40:11Z"
}"#
    );
}

#[test]
fn missing_credentials_are_a_code_without_a_key() {
    let at = at("2026-01-05T08:22:00Z");
    let body = failure(&CredentialsFailure {
        code: "AssumeRoleUnauthorizedAccess".into(),
        message: "no \"trust\"".to_owned(),
        cause: FailureCause::AccessDenied,
        at,
    });
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "{\n  \"Code\" : \"AssumeRoleUnauthorizedAccess\",\n  \"Message\" : \"no \\\"trust\\\"\",\n  \
         \"LastUpdated\" : \"2026-01-05T08:22:00Z\"\n}"
    );
}
