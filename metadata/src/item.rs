//! Items that a profile adds to the tree: their paths and the sources of their values.

use crate::cel::Expression;
use crate::dialect::Dialect;
use crate::names::{InvalidValue, check_text, text_type};

/// Maximum length of an item's value, in bytes.
pub const MAX_VALUE_BYTES: usize = 4096;

text_type!(
    /// A path below `meta-data/`: 1 to 8 segments of letters, digits and `-._:@+=,`, at most 253 bytes. Dot segments are
    /// invalid.
    ItemPath,
    |text| {
        check_text(text, 1..=253, |c| c.is_ascii_alphanumeric() || "-._:@+=,/".contains(c), "letters, digits and -._:@+=,/")?;
        let names = text.split('/').collect::<Vec<_>>();
        if names.len() > 8 {
            return Err("must have at most 8 segments".to_owned());
        }
        if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            return Err("must not have an empty segment or a dot segment".to_owned());
        }
        Ok(())
    }
);

text_type!(
    /// The value of an item: up to 4096 bytes. Tab and line feed are the only control characters.
    ItemText,
    |text| check_text(
        text,
        0..=MAX_VALUE_BYTES,
        |c| !c.is_control() || c == '\n' || c == '\t',
        "text, tabs and line feeds"
    )
);

impl ItemPath {
    /// Returns the first segment of the path.
    #[must_use]
    pub fn first_segment(&self) -> &str {
        self.as_str().split('/').next().unwrap_or_default()
    }

    /// Checks that the path is not reserved in a dialect. The letter case of the first segment is ignored
    /// for reserved names: ECS treats `Ram` as `ram`.
    ///
    /// # Errors
    /// If the path is reserved, or is below a reserved path.
    pub fn check(&self, dialect: Dialect) -> Result<(), InvalidValue> {
        let first = self.first_segment();
        if dialect.protocol().reserved_names().iter().any(|name| name.eq_ignore_ascii_case(first)) {
            return Err(InvalidValue(format!("must not set {first}: it identifies the pod, or another field sets it")));
        }
        if self.as_str().starts_with("network/interfaces/") {
            return Err(InvalidValue("must not set network/interfaces/: it identifies the pod".to_owned()));
        }
        Ok(())
    }
}

/// One item of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The dialect.
    pub dialect: Dialect,
    /// The path below `meta-data/`.
    pub path: ItemPath,
    /// The source of the value.
    pub source: ItemSource,
}

/// The source of an item's value.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemSource {
    /// A constant.
    Value(ItemText),
    /// A field of the pod.
    Field(FieldPath),
    /// A CEL expression over the facts.
    Expression(Expression),
}

/// A field of the pod, in the notation of the downward API's `fieldRef`.
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
        let key = |prefix: &str| {
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
            _ => match (key("metadata.labels"), key("metadata.annotations")) {
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
    fn reserved_path_is_rejected() {
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
    fn invalid_path_is_rejected() {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a%2fb", "a?b", "1/2/3/4/5/6/7/8/9"] {
            assert!(ItemPath::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_outside_the_downward_api_is_rejected() {
        assert_eq!(FieldPath::try_from("metadata.labels['app']"), Ok(FieldPath::Label("app".to_owned())));
        for bad in ["spec.containers", "metadata.labels", "metadata.labels['']", "metadata.labels[app]"] {
            assert!(FieldPath::try_from(bad).is_err(), "{bad}");
        }
    }
}
