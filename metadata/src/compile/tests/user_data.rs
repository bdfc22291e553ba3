//! Sources of user data, and missing user data.

use bytes::Bytes;

use crate::finding::FindingReason;
use crate::fixture::Case;
use crate::profile::{KeyRef, MAX_USER_DATA_BYTES, UserDataSource};
use crate::workload::UserData;

fn key() -> KeyRef {
    KeyRef { name: "boot".to_owned(), key: "script".to_owned() }
}

fn from(source: UserDataSource) -> Case {
    let mut case = Case::new();
    case.profile_mut().user_data = Some(source);
    case
}

fn unavailable() -> [(String, FindingReason); 1] {
    [("spec.userData.configMapKeyRef".to_owned(), FindingReason::UserDataUnavailable)]
}

#[test]
fn inline_user_data_is_unchanged() {
    let case = from(UserDataSource::inline("#!/bin/sh\r\n".to_owned()).unwrap());
    let data = case.workload().instance.user_data;
    assert_eq!(data, Some(UserData::Bytes(Bytes::from_static(b"#!/bin/sh\r\n"))));
}

#[test]
fn too_long_inline_user_data_is_rejected() {
    assert!(UserDataSource::inline("x".repeat(MAX_USER_DATA_BYTES)).is_ok());
    assert!(UserDataSource::inline("x".repeat(MAX_USER_DATA_BYTES + 1)).is_err());
}

#[test]
fn config_map_value_is_unchanged() {
    let mut case = from(UserDataSource::ConfigMap(key()));
    let gzip = Bytes::from_static(b"\x1f\x8b\x00\xff");
    case.config_map_values.insert(key(), gzip.clone());
    assert_eq!(case.workload().instance.user_data, Some(UserData::Bytes(gzip)));
    assert_eq!(case.findings(), []);
}

#[test]
fn missing_config_map_or_key_gives_a_finding() {
    let mut case = from(UserDataSource::ConfigMap(key()));
    case.config_map_values.insert(KeyRef { key: "other".to_owned(), ..key() }, Bytes::new());
    assert_eq!(case.workload().instance.user_data, None);
    assert_eq!(case.findings(), unavailable());
    assert_eq!(case.compile().findings[0].message, "ConfigMap boot or its key script does not exist");
}

#[test]
fn too_long_config_map_value_gives_a_finding() {
    let mut case = from(UserDataSource::ConfigMap(key()));
    case.config_map_values.insert(key(), Bytes::from(vec![b'x'; MAX_USER_DATA_BYTES]));
    assert_eq!(case.findings(), []);
    case.config_map_values.insert(key(), Bytes::from(vec![b'x'; MAX_USER_DATA_BYTES + 1]));
    assert_eq!(case.workload().instance.user_data, None);
    assert_eq!(case.findings(), unavailable());
    assert!(case.compile().findings[0].message.contains("at most 16384 bytes long, not 16385"));
}

#[test]
fn secret_user_data_is_a_reference() {
    let mut case = from(UserDataSource::Secret(key()));
    case.config_map_values.insert(key(), Bytes::from_static(b"a ConfigMap of the same name"));
    assert_eq!(case.workload().instance.user_data, Some(UserData::Secret(key())));
    assert_eq!(case.findings(), []);
}
