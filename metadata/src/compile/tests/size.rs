//! Pods with more data than an agent holds for one pod.

use crate::compile::Outcome;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, item};
use crate::item::MAX_VALUE_BYTES;
use crate::profile::{OpenSshKey, PublicKey};
use crate::workload::MAX_WORKLOAD_BYTES;

/// Returns a pod with the items that the profile may have, and public keys. Their quotes take two bytes in JSON.
fn with(items: usize, keys: usize) -> Case {
    let mut case = Case::new();
    let value = "\"".repeat(MAX_VALUE_BYTES);
    let items = |dialect| (0..items).map(move |index| (dialect, format!("custom/{index}")));
    let items = Dialect::ALL.into_iter().flat_map(items);
    case.profile_mut().items = items.map(|(dialect, path)| item(dialect, &path, &value)).collect();
    let comment = "\"".repeat(4000);
    let key = |index| PublicKey {
        name: format!("key-{index}").as_str().try_into().unwrap(),
        open_ssh_key: OpenSshKey::try_from(format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 {comment}")).unwrap(),
    };
    case.profile_mut().public_keys = (0..keys).map(key).collect();
    case
}

#[test]
fn workload_at_the_limit_of_one_field_is_served() {
    for case in [with(7, 0), with(0, 15)] {
        let json = serde_json::to_vec(&case.workload()).unwrap();
        assert!(json.len() > MAX_WORKLOAD_BYTES * 3 / 4 && json.len() <= MAX_WORKLOAD_BYTES, "{}", json.len());
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn workload_over_the_limit_is_denied_with_a_finding_of_its_largest_field() {
    for (case, field) in [(with(7, 3), "spec.metadata"), (with(3, 15), "spec.publicKeys")] {
        let compiled = case.compile();
        let Outcome::Denied(denied) = &compiled.outcome else { panic!("served") };
        assert!(denied.reason.to_string().contains("131072 bytes"), "{}", denied.reason);
        assert_eq!(case.findings(), [(field.to_owned(), FindingReason::WorkloadTooLarge)]);
        assert!(compiled.findings[0].message.contains("pod web"), "{}", compiled.findings[0].message);
    }
}
