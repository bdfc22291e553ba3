//! The tags of a pod in one dialect.

use std::collections::BTreeMap;

use crate::compile::compilation::Compilation;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::options::InstanceMetadataTags;

/// Maximum number of keys in the message of a finding.
const MAX_LISTED_KEYS: usize = 8;

impl Compilation<'_> {
    /// Returns static tags, then the selected labels whose keys the dialect allows, up to the dialect's number of tags. A static
    /// tag overrides a label.
    pub(super) fn tags(&mut self, dialect: Dialect, mode: InstanceMetadataTags) -> Vec<(String, String)> {
        if mode == InstanceMetadataTags::Disabled {
            return Vec::new();
        }
        let max = dialect.protocol().max_tags();
        let fixed = self.profile.static_tags.iter().take(max).map(|tag| (tag.key.clone(), tag.value.to_string()));
        let mut tags = fixed.collect::<BTreeMap<_, _>>();
        let mut left_out = self.profile.static_tags.len().saturating_sub(max);
        let is_selected = |key: &str| self.profile.tag_labels.iter().any(|pattern| pattern.matches(key));
        let mut forbidden = Vec::new();
        for (key, value) in self.facts.pod.metadata.labels.iter().filter(|(key, _)| is_selected(key)) {
            match dialect.protocol().check_tag_key(key) {
                Ok(()) if tags.contains_key(key) => {}
                Ok(()) if tags.len() < max => {
                    tags.insert(key.clone(), value.clone());
                }
                Ok(()) => left_out += 1,
                Err(_) => forbidden.push(key.as_str()),
            }
        }
        if !forbidden.is_empty() {
            let message = format!("{dialect} does not allow the keys of these labels in tags: {}", list(&forbidden));
            self.report("spec.tags.labels", FindingReason::TagDropped, message);
        }
        if left_out > 0 {
            let pod = &self.facts.pod.metadata.name;
            let message = format!("{dialect} allows {max} tags; {left_out} tags of pod {pod} are left out");
            self.report("spec.tags", FindingReason::TooManyTags, message);
        }
        tags.into_iter().collect()
    }
}

/// Returns the first keys of a list, and the number of the others.
fn list(keys: &[&str]) -> String {
    match keys.split_at_checked(MAX_LISTED_KEYS) {
        Some((first, others @ [_, ..])) => format!("{} and {} more", first.join(", "), others.len()),
        Some(_) | None => keys.join(", "),
    }
}
