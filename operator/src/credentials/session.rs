//! Name and tags of a session. The name joins the operator's audit log with CloudTrail and ActionTrail.

use aws_lc_rs::digest::{SHA256, digest};
use podmeta_metadata::workload::PodRef;

use super::request::RoleRequest;

/// Maximum length of the namespace in a session name, in bytes.
const MAX_NAMESPACE: usize = 20;

/// Maximum length of the pod's name in a session name, in bytes.
const MAX_POD: usize = 26;

/// Number of hexadecimal digits of the hash of the pod's UID in a session name.
const HASH_DIGITS: usize = 16;

// Both clouds allow 2 to 64 characters. Source: RoleSessionName of AssumeRole and of AssumeRoleWithOIDC.
const _: () = assert!(MAX_NAMESPACE + 1 + MAX_POD + 1 + HASH_DIGITS <= 64);

/// Returns the session name of a pod: `NAMESPACE.POD.HASH`. Namespace and name are shortened. The hash of the UID is unique.
/// It has letters, digits, `.` and `-` only, which both clouds allow.
#[must_use]
pub fn session_name(pod: &PodRef) -> String {
    let hash = digest(&SHA256, pod.uid.as_str().as_bytes());
    let hash: String = hash.as_ref().iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{}.{}.{hash}", shorten(&pod.namespace, MAX_NAMESPACE), shorten(&pod.name, MAX_POD))
}

/// Returns the first `max` characters. Replaces characters that Kubernetes does not allow in names.
fn shorten(name: &str, max: usize) -> String {
    let replace = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
    name.chars().take(max).map(replace).collect()
}

/// Returns the session tags of a pod, for `awsAssumeRole`. AssumeRoleWithWebIdentity has none.
/// Source: AssumeRole, `Tags`: at most 50, keys of 128 and values of 256 characters. Names of Kubernetes are shorter.
#[must_use]
pub fn session_tags(request: &RoleRequest) -> Vec<(&'static str, &str)> {
    let pod = &request.pod;
    let mut tags = vec![
        ("kubernetes-namespace", pod.namespace.as_str()),
        ("kubernetes-pod-name", pod.name.as_str()),
        ("kubernetes-pod-uid", pod.uid.as_str()),
        ("kubernetes-node", request.node.as_str()),
    ];
    if let Some(account) = &request.service_account {
        tags.push(("kubernetes-service-account", account));
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str) -> PodRef {
        PodRef { namespace: namespace.into(), name: name.into(), uid: uid.try_into().unwrap() }
    }

    #[test]
    fn session_name_is_readable_and_valid_in_both_clouds() {
        let name = session_name(&pod("shop", "web-1", "u1"));
        assert!(name.starts_with("shop.web-1.") && name.len() == 11 + HASH_DIGITS, "{name}");
        let long = session_name(&pod(&"n".repeat(63), &"p".repeat(253), &"u".repeat(64)));
        let odd = session_name(&pod("ä/b", "c\n d", "u1"));
        for name in [name, long, odd] {
            let is_valid = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
            assert!((2..=64).contains(&name.len()) && name.chars().all(is_valid), "{name}");
        }
    }

    #[test]
    fn session_names_of_two_pods_with_one_name_differ() {
        assert_eq!(session_name(&pod("a", "b", "u1")), session_name(&pod("a", "b", "u1")));
        assert_ne!(session_name(&pod("a", "b", "u1")), session_name(&pod("a", "b", "u2")));
    }
}
