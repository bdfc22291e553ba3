//! The facts that expressions see. A fact over a limit is hidden: an expression that reads it fails.

use std::collections::BTreeMap;
use std::fmt;

use crate::facts::{
    Facts, NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, PodFacts, PodMetadata, PodSpec,
};

/// Maximum number of labels, annotations, tolerations or taints of one object that expressions see.
pub const MAX_ENTRIES: usize = 128;

/// Maximum size of the labels, annotations, tolerations or taints of one object that expressions see, in bytes of keys and
/// values. It is also the limit of an image and of a controller.
pub const MAX_ENTRIES_BYTES: usize = 32 * 1024;

/// A fact that expressions do not see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hidden {
    /// The fields that lead to it, from the variable.
    pub(super) path: &'static [&'static str],
    entries: usize,
    bytes: usize,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, entries, bytes } = self;
        write!(
            f,
            "reads {}, which has {entries} entries and {bytes} bytes; an expression sees at most {MAX_ENTRIES} entries and \
             {MAX_ENTRIES_BYTES} bytes of it",
            path.join(".")
        )
    }
}

/// Returns the facts without those over a limit, and a list of the hidden ones.
pub(super) fn visible(facts: &Facts) -> (Facts, Vec<Hidden>) {
    let mut limits = FactLimits { hidden: Vec::new() };
    let Facts { pod, namespace, node } = facts;
    let pod = PodFacts {
        origin: pod.origin.clone(),
        metadata: limits.pod_metadata(&pod.metadata),
        spec: limits.pod_spec(&pod.spec),
        status: pod.status.clone(),
    };
    let labels = limits.map(&["namespaceObject", "metadata", "labels"], &namespace.metadata.labels);
    let annotations = limits.map(&["namespaceObject", "metadata", "annotations"], &namespace.metadata.annotations);
    let namespace =
        NamespaceFacts { metadata: NamespaceMetadata { name: namespace.metadata.name.clone(), labels, annotations } };
    let node = node.as_ref().map(|node| limits.node(node));
    (Facts { pod, namespace, node }, limits.hidden)
}

/// The limits, and the facts that are over them.
struct FactLimits {
    hidden: Vec<Hidden>,
}

impl FactLimits {
    /// Returns the value, or `None` if it is over a limit.
    fn check<T: Clone>(&mut self, path: &'static [&'static str], value: &T, entries: usize, bytes: usize) -> Option<T> {
        if entries <= MAX_ENTRIES && bytes <= MAX_ENTRIES_BYTES {
            return Some(value.clone());
        }
        self.hidden.push(Hidden { path, entries, bytes });
        None
    }

    fn map(&mut self, path: &'static [&'static str], map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let bytes = map.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.check(path, map, map.len(), bytes).unwrap_or_default()
    }

    fn pod_metadata(&mut self, metadata: &PodMetadata) -> PodMetadata {
        let controller = metadata.controller.as_ref();
        let controller_bytes = |owner: &crate::facts::Controller| owner.kind.len() + owner.name.len() + owner.uid.len();
        PodMetadata {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            labels: self.map(&["pod", "metadata", "labels"], &metadata.labels),
            annotations: self.map(&["pod", "metadata", "annotations"], &metadata.annotations),
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            controller: controller
                .and_then(|owner| self.check(&["pod", "metadata", "controller"], owner, 3, controller_bytes(owner))),
        }
    }

    fn pod_spec(&mut self, spec: &PodSpec) -> PodSpec {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let tolerations = spec.tolerations.iter();
        let bytes = tolerations.map(|one| text(&one.key) + text(&one.value) + text(&one.effect)).sum();
        PodSpec {
            node_name: spec.node_name.clone(),
            service_account_name: spec.service_account_name.clone(),
            hostname: spec.hostname.clone(),
            subdomain: spec.subdomain.clone(),
            host_network: spec.host_network,
            image: self.check(&["pod", "spec", "image"], &spec.image, 1, spec.image.len()).unwrap_or_default(),
            tolerations: self
                .check(&["pod", "spec", "tolerations"], &spec.tolerations, spec.tolerations.len(), bytes)
                .unwrap_or_default(),
        }
    }

    fn node(&mut self, node: &NodeFacts) -> NodeFacts {
        let taints = &node.spec.taints;
        let bytes = taints.iter().map(|taint| taint.key.len() + taint.value.len() + taint.effect.len()).sum();
        NodeFacts {
            metadata: NodeMetadata {
                name: node.metadata.name.clone(),
                labels: self.map(&["node", "metadata", "labels"], &node.metadata.labels),
            },
            spec: NodeSpec {
                pod_cidrs: node.spec.pod_cidrs.clone(),
                taints: self.check(&["node", "spec", "taints"], taints, taints.len(), bytes).unwrap_or_default(),
            },
            status: node.status.clone(),
        }
    }
}
