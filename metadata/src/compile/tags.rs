//! The tags of a pod in one dialect.

use std::collections::BTreeMap;

use crate::compile::compilation::Compilation;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::options::InstanceMetadataTags;

impl Compilation<'_> {
    /// Returns the selected labels whose keys the dialect allows, then static tags, which override labels.
    pub(super) fn tags(&mut self, dialect: Dialect, mode: InstanceMetadataTags) -> Vec<(String, String)> {
        if mode == InstanceMetadataTags::Disabled {
            return Vec::new();
        }
        let is_selected = |key: &str| self.profile.tag_labels.iter().any(|pattern| pattern.matches(key));
        let mut tags = BTreeMap::new();
        let mut dropped = Vec::new();
        for (key, value) in self.facts.pod.metadata.labels.iter().filter(|(key, _)| is_selected(key)) {
            match dialect.protocol().check_tag_key(key) {
                Ok(()) => {
                    tags.insert(key.clone(), value.clone());
                }
                Err(_) => dropped.push(key.as_str()),
            }
        }
        if !dropped.is_empty() {
            let message = format!("{dialect} does not allow the keys of these labels in tags: {}", dropped.join(", "));
            self.report("spec.tags.labels", FindingReason::TagDropped, message);
        }
        tags.extend(self.profile.static_tags.iter().map(|tag| (tag.key.clone(), tag.value.to_string())));
        tags.into_iter().collect()
    }
}
