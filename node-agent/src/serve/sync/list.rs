//! Parses the list of workloads. A pod that cannot be read does not hide the others.

use podmeta_agent_api::{WorkloadItem, WorkloadList};
use podmeta_metadata::workload::PodRef;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The list, with items that are not parsed yet.
pub(super) type RawList = WorkloadList<Box<RawValue>>;

/// The pod of an item, for the log.
#[derive(Deserialize)]
struct PodOfItem {
    pod: PodRef,
}

/// Parses the items. A pod whose item cannot be read is logged and left out, so it gets 503: data of a former state may be
/// forbidden now.
pub(super) fn parse_items(list: RawList) -> WorkloadList {
    let WorkloadList { resource_version, items } = list;
    let parse = |item: Box<RawValue>| {
        let error = match serde_json::from_str::<WorkloadItem>(item.get()) {
            Ok(item) => return Some(item),
            Err(error) => error,
        };
        let pod = serde_json::from_str::<PodOfItem>(item.get()).map(|item| item.pod);
        tracing::error!(
            pod = pod.ok().map(tracing::field::display),
            line = error.line(),
            column = error.column(),
            "cannot parse the workload of a pod; the pod gets 503 until operator and agent have compatible versions"
        );
        None
    };
    WorkloadList { resource_version, items: items.into_iter().filter_map(parse).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{denied_item, list};

    #[test]
    fn pod_that_cannot_be_read_is_left_out_of_the_list() {
        let items = ["a", "b"].map(|name| denied_item(name, "no profile")).into();
        let text = serde_json::to_string(&list(7, items)).unwrap();
        let unreadable = text.replacen("\"outcome\":\"denied\"", "\"outcome\":\"postponed\"", 1);
        assert!(serde_json::from_str::<WorkloadList>(&unreadable).is_err(), "the plain type fails");
        let list = parse_items(serde_json::from_str(&unreadable).unwrap());
        assert_eq!(list.resource_version.to_string(), "e1:7");
        let names: Vec<_> = list.items.iter().map(|item| item.outcome.pod().name.as_str()).collect();
        assert_eq!(names, ["b"]);
    }
}
