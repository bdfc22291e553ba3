//! JSON of the parts of a workload: one member for each dialect, such as `ec2`. Null and an absent member mean the same.
//! Other members are ignored, as in the rest of a workload.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserializer, Serializer};

use super::DialectPart;
use crate::dialect::Dialect;

type Parts = BTreeMap<Dialect, DialectPart>;

pub(super) fn serialize<S: Serializer>(parts: &Parts, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Parts, D::Error> {
    deserializer.deserialize_map(PartsVisitor)
}

struct PartsVisitor;

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each dialect")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let mut parts = Parts::new();
        while let Some(name) = map.next_key::<String>()? {
            match Dialect::from_name(&name) {
                Some(dialect) => {
                    if let Some(part) = map.next_value::<Option<DialectPart>>()? {
                        parts.insert(dialect, part);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::dialect::Dialect;
    use crate::fixture::Case;
    use crate::workload::Workload;

    fn without_ecs(ecs: Option<Value>) -> Workload {
        let mut value = serde_json::to_value(Case::new().workload()).unwrap();
        let object = value.as_object_mut().unwrap();
        object.remove("ecs").unwrap();
        object.extend(ecs.map(|ecs| ("ecs".to_owned(), ecs)));
        object.insert("later".to_owned(), json!({"unknown": true}));
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn dialects_are_members_of_the_workload() {
        let value = serde_json::to_value(Case::new().workload()).unwrap();
        assert!(value["ec2"]["instanceId"].is_string() && value["ecs"]["instanceId"].is_string(), "{value}");
    }

    #[test]
    fn null_and_absent_dialects_are_the_same() {
        for ecs in [None, Some(Value::Null)] {
            let workload = without_ecs(ecs);
            assert_eq!(workload.dialects.keys().copied().collect::<Vec<_>>(), [Dialect::Ec2]);
        }
    }
}
