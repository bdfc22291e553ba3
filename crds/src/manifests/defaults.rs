//! Generated values for fields that a cluster sets. The same files get the same values.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::convert::facts;

/// The creation time of objects that have none, in Unix seconds: 2026-01-01T00:00:00Z.
const CREATION_SECONDS: i64 = 1_767_225_600;
/// The label that the API server adds to every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Returns a UID (RFC 9562, version 8) derived from kind, namespace and name.
pub(super) fn uid(kind: &str, namespace: &str, name: &str) -> String {
    let digest = digest(&SHA256, format!("{kind}/{namespace}/{name}").as_bytes());
    let bytes = digest.as_ref().iter().take(16).fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let uid = (bytes & !(0xf << 76) & !(0x3 << 62)) | (8 << 76) | (2 << 62);
    let hex = format!("{uid:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    parts.join("-")
}

/// Sets the metadata fields that the API server sets, if they are absent.
pub(super) fn complete_metadata(metadata: &mut ObjectMeta, kind: &str, namespace: &str, name: &str) {
    metadata.name = Some(name.to_owned());
    metadata.namespace = Some(namespace.to_owned());
    metadata.uid.get_or_insert_with(|| uid(kind, namespace, name));
    metadata.creation_timestamp.get_or_insert(Time(Timestamp::from_second(CREATION_SECONDS).unwrap_or_default()));
    metadata.generation.get_or_insert(1);
}

/// Sets the ServiceAccount of a pod that has none, as the API server's admission does for pods that are not
/// mirror pods.
pub(super) fn complete_pod_spec(pod: &mut Pod) {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_none_or(|annotations| !annotations.contains_key(facts::MIRROR_ANNOTATION)) {
        let account = &mut pod.spec.get_or_insert_default().service_account_name;
        *account = account.take().filter(|name| !name.is_empty()).or_else(|| Some("default".to_owned()));
    }
}

/// Returns a namespace with the label that every namespace has. `loaded` is the object in the files, if any.
pub(super) fn namespace(name: &str, loaded: Option<Namespace>) -> Namespace {
    let mut namespace = loaded.unwrap_or_default();
    namespace.metadata.name = Some(name.to_owned());
    let labels = namespace.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name.to_owned());
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_a_uuid_derived_from_kind_namespace_and_name() {
        let web = uid("Pod", "default", "web");
        assert_eq!(web, uid("Pod", "default", "web"));
        assert_ne!(web, uid("Pod", "other", "web"));
        assert_eq!(web.len(), 36);
        assert_eq!(web.as_bytes()[14], b'8');
        assert!(b"89ab".contains(&web.as_bytes()[19]), "{web}");
    }
}
