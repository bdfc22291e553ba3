//! Items that a profile adds to the tree: where they may stand and where their value comes from.

use crate::cel::Expression;
use crate::dialect::Dialect;
use crate::names::{InvalidValue, check_text, text_type};

/// The longest value of an item, in bytes.
pub const MAX_VALUE_BYTES: usize = 4096;

text_type!(
    /// A path below `meta-data/`: 1 to 8 names joined by `/`, each of letters, digits and `-._:@+=,`.
    ItemPath,
    |text| {
        check_text(text, 1..=253, |c| c.is_ascii_alphanumeric() || "-._:@+=,/".contains(c), "letters, digits and -._:@+=,/")?;
        let names = text.split('/').collect::<Vec<_>>();
        if names.len() > 8 {
            return Err("may be 8 names deep at most".to_owned());
        }
        if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            return Err("must not have an empty name or a dot segment".to_owned());
        }
        Ok(())
    }
);

text_type!(
    /// A value as it is served: up to 4096 bytes, with no control character but tab and line feed.
    ItemText,
    |text| check_text(
        text,
        0..=MAX_VALUE_BYTES,
        |c| !c.is_control() || c == '\n' || c == '\t',
        "text, tabs and line feeds"
    )
);

impl ItemPath {
    /// The first name of the path.
    #[must_use]
    pub fn first(&self) -> &str {
        self.as_str().split('/').next().unwrap_or_default()
    }

    /// Refuses a path that a dialect keeps for itself. Letter case does not help: ECS matches `Ram` as `ram`.
    ///
    /// # Errors
    /// If the path is, or lies below, a reserved name.
    pub fn check(&self, dialect: Dialect) -> Result<(), InvalidValue> {
        let first = self.first();
        if dialect.protocol().reserved_names().iter().any(|name| name.eq_ignore_ascii_case(first)) {
            return Err(InvalidValue(format!(
                "must not set {first}: it says who the pod is, or has a field of its own"
            )));
        }
        if self.as_str().starts_with("network/interfaces/") {
            return Err(InvalidValue("must not set network/interfaces/: it says who the pod is".to_owned()));
        }
        Ok(())
    }
}

/// One item of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The tree it is in.
    pub dialect: Dialect,
    /// Where it stands below `meta-data/`.
    pub path: ItemPath,
    /// Where its value comes from.
    pub source: ItemSource,
}

/// Where an item's value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemSource {
    /// The value itself.
    Value(ItemText),
    /// A field of the pod, as the downward API names it.
    Field(FieldPath),
    /// A CEL expression over the facts.
    Expression(Expression),
}

/// A field of the pod as the downward API's `fieldRef` names it.
/// Source: Kubernetes documentation, "Downward API", information available via `fieldRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldPath {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels['KEY']`
    Label(String),
    /// `metadata.annotations['KEY']`
    Annotation(String),
    /// `spec.nodeName`
    NodeName,
    /// `spec.serviceAccountName`
    ServiceAccountName,
    /// `status.hostIP`
    HostIp,
    /// `status.hostIPs`
    HostIps,
    /// `status.podIP`
    PodIp,
    /// `status.podIPs`
    PodIps,
}

impl TryFrom<&str> for FieldPath {
    type Error = InvalidValue;

    fn try_from(text: &str) -> Result<Self, InvalidValue> {
        let keyed = |prefix: &str| {
            text.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").filter(|key| !key.is_empty())
        };
        Ok(match text {
            "metadata.name" => Self::Name,
            "metadata.namespace" => Self::Namespace,
            "metadata.uid" => Self::Uid,
            "spec.nodeName" => Self::NodeName,
            "spec.serviceAccountName" => Self::ServiceAccountName,
            "status.hostIP" => Self::HostIp,
            "status.hostIPs" => Self::HostIps,
            "status.podIP" => Self::PodIp,
            "status.podIPs" => Self::PodIps,
            _ => match (keyed("metadata.labels"), keyed("metadata.annotations")) {
                (Some(key), _) => Self::Label(key.to_owned()),
                (_, Some(key)) => Self::Annotation(key.to_owned()),
                (None, None) => {
                    return Err(InvalidValue(format!(
                        "must be a field of the downward API, such as metadata.name or metadata.labels['KEY'], not {text:?}"
                    )));
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_item_says_who_the_pod_is() {
        for (dialect, path) in [
            (Dialect::Ec2, "iam/info"),
            (Dialect::Ec2, "identity-credentials/ec2/info"),
            (Dialect::Ec2, "tags/instance/Name"),
            (Dialect::Ec2, "instance-id"),
            (Dialect::Ec2, "network/interfaces/macs/02:00:00:00:00:01/mac"),
            (Dialect::Ecs, "ram/security-credentials/x"),
            (Dialect::Ecs, "RAM/security-credentials/x"),
            (Dialect::Ecs, "private-ipv4"),
        ] {
            assert!(ItemPath::try_from(path).unwrap().check(dialect).is_err(), "{dialect} {path}");
        }
        assert!(ItemPath::try_from("placement/group-name").unwrap().check(Dialect::Ec2).is_ok());
        assert!(ItemPath::try_from("iam").unwrap().check(Dialect::Ecs).is_ok());
    }

    #[test]
    fn a_path_has_no_empty_or_dot_segment() {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a%2fb", "a?b", "1/2/3/4/5/6/7/8/9"] {
            assert!(ItemPath::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_field_is_one_of_the_downward_api() {
        assert_eq!(FieldPath::try_from("metadata.labels['app']"), Ok(FieldPath::Label("app".to_owned())));
        for bad in ["spec.containers", "metadata.labels", "metadata.labels['']", "metadata.labels[app]"] {
            assert!(FieldPath::try_from(bad).is_err(), "{bad}");
        }
    }
}
