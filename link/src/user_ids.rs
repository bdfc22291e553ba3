//! The user IDs of a pod. The kernel reports the IDs of the node. In a pod with a user namespace of its own
//! (`hostUsers: false`), the same users have other IDs. Pure.

/// A range of user IDs that a user namespace maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIdRange {
    /// First ID on the node.
    pub node: u32,
    /// First ID in the pod.
    pub pod: u32,
    /// Number of IDs.
    pub length: u32,
}

impl UserIdRange {
    /// Returns the ID in the pod, or `None` if the range does not contain the ID of the node.
    fn in_pod(&self, user: u32) -> Option<u32> {
        let offset = user.checked_sub(self.node).filter(|offset| *offset < self.length)?;
        self.pod.checked_add(offset)
    }
}

/// The user IDs of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserIds {
    /// The pod has the IDs of the node.
    OfNode,
    /// The pod has a user namespace that maps these ranges.
    Mapped(Vec<UserIdRange>),
    /// The pod has a user namespace, but the container runtime does not report its ranges.
    Unknown,
}

/// Reason why a user of the node has no ID in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// The ranges are unknown.
    #[error("the container runtime does not report the user IDs of the pod's user namespace")]
    Unknown,
    /// No range contains the ID.
    #[error("user {0} of the node has no ID in the pod's user namespace")]
    NotMapped(u32),
}

impl UserIds {
    /// Returns the ID in the pod that a user of the node has.
    ///
    /// # Errors
    /// If the user has none, or if the ranges are unknown.
    pub fn in_pod(&self, user: u32) -> Result<u32, UserIdError> {
        match self {
            Self::OfNode => Ok(user),
            Self::Mapped(ranges) => {
                ranges.iter().find_map(|range| range.in_pod(user)).ok_or(UserIdError::NotMapped(user))
            }
            Self::Unknown => Err(UserIdError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGES: [UserIdRange; 2] =
        [UserIdRange { node: 100_000, pod: 0, length: 1000 }, UserIdRange { node: 300_000, pod: 65_534, length: 1 }];

    #[test]
    fn id_of_a_mapped_user_is_that_of_the_pod() {
        let users = UserIds::Mapped(RANGES.to_vec());
        for (node, pod) in [(100_000, 0), (100_033, 33), (100_999, 999), (300_000, 65_534)] {
            assert_eq!(users.in_pod(node), Ok(pod), "{node}");
        }
    }

    #[test]
    fn user_outside_of_all_ranges_has_no_id() {
        let users = UserIds::Mapped(RANGES.to_vec());
        for node in [0, 33, 99_999, 101_000, 299_999, 300_001, u32::MAX] {
            assert_eq!(users.in_pod(node), Err(UserIdError::NotMapped(node)), "{node}");
        }
        for users in [vec![], vec![UserIdRange { node: 5, pod: 5, length: 0 }]] {
            assert_eq!(UserIds::Mapped(users).in_pod(5), Err(UserIdError::NotMapped(5)));
        }
    }

    #[test]
    fn range_at_the_end_of_all_ids_does_not_wrap() {
        let users = UserIds::Mapped(vec![UserIdRange { node: 10, pod: u32::MAX, length: u32::MAX }]);
        assert_eq!(users.in_pod(10), Ok(u32::MAX));
        assert_eq!(users.in_pod(11), Err(UserIdError::NotMapped(11)));
    }

    #[test]
    fn pod_without_a_user_namespace_has_the_ids_of_the_node() {
        assert_eq!(UserIds::OfNode.in_pod(33), Ok(33));
        assert_eq!(UserIds::Unknown.in_pod(33), Err(UserIdError::Unknown));
    }
}
