//! The items of the node's pods, and their links.

use std::collections::BTreeMap;
use std::sync::Arc;

use podmeta_agent_api::{ResourceVersion, WorkloadItem};
use podmeta_metadata::compile::PodView;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::Role;
use podmeta_metadata::workload::{Link, Workload};

/// The items and links of pods.
#[derive(Debug, Default)]
pub(super) struct NodePods {
    /// The resource version of the items, or `None` if the pods must be listed.
    pub(super) version: Option<ResourceVersion>,
    pub(super) items: BTreeMap<PodUid, Arc<WorkloadItem>>,
    /// The links of pods, also of pods without an item. Their addresses take precedence over the API server's.
    pub(super) links: BTreeMap<PodUid, PodLink>,
}

/// The link of a pod.
#[derive(Debug)]
pub(super) struct PodLink {
    /// The sandbox that the link belongs to.
    pub(super) sandbox: String,
    pub(super) link: Link,
}

/// The earlier items of pods that may have changed. `None` for a pod that is new.
pub(super) type EarlierItems = BTreeMap<PodUid, Option<Arc<WorkloadItem>>>;

impl NodePods {
    /// Returns the data that the agent serves for a pod, or `None` if it has none.
    pub(super) fn view(&self, uid: &PodUid) -> Option<PodView> {
        let item = self.items.get(uid)?;
        let link = || {
            self.links
                .get(uid)
                .map(|link| link.link.clone())
                .unwrap_or_else(|| Link::from_addresses(uid, &item.addresses))
        };
        item.outcome.clone().into_view(link)
    }
}

/// Returns the earlier item if it is equal, so that its allocation is shared.
pub(super) fn reuse(before: Option<&Arc<WorkloadItem>>, item: WorkloadItem) -> Arc<WorkloadItem> {
    match before {
        Some(before) if **before == item => Arc::clone(before),
        Some(_) | None => Arc::new(item),
    }
}

/// Keeps the pods whose items differ now.
pub(super) fn retain_changed(mut earlier: EarlierItems, pods: &NodePods) -> EarlierItems {
    earlier.retain(|uid, before| before.as_deref() != pods.items.get(uid).map(|item| &**item));
    earlier
}

/// Returns the roles of a pod.
pub(super) fn roles(item: &WorkloadItem) -> BTreeMap<Dialect, &Role> {
    item.outcome.workload().into_iter().flat_map(Workload::roles).collect()
}

/// Returns the UID of the pod of an item.
pub(super) fn uid(item: &WorkloadItem) -> &PodUid {
    &item.outcome.pod().uid
}
