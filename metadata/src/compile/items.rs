//! The items that a profile adds to a pod's tree in one dialect.

use std::collections::BTreeMap;

use crate::cel::{Expression, Scope};
use crate::compile::compilation::Compilation;
use crate::compile::instance::field_value;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::item::{ItemPath, ItemSource, ItemText};
use crate::names::InvalidValue;
use crate::tree::conflicts;
use crate::workload::{DialectPart, ItemValue, Workload};

/// Maximum size of all items of one dialect of a pod, in bytes. The node agent keeps them in memory.
const MAX_ITEMS_BYTES: usize = 32 * 1024;

impl Compilation<'_> {
    /// Returns the items of a dialect that have a value. Reports those whose value is invalid or too long.
    pub(super) fn items(&mut self, dialect: Dialect) -> Vec<(ItemPath, ItemValue)> {
        let mut items = Vec::new();
        let mut left = MAX_ITEMS_BYTES;
        for (index, item) in self.profile.items.iter().enumerate().filter(|(_, item)| item.dialect == dialect) {
            let value = match &item.source {
                ItemSource::Value(text) => Ok(Some(ItemValue::Text(text.clone()))),
                ItemSource::Field(field) => field_value(self.facts, field),
                ItemSource::Expression(expression) => self.evaluate(expression),
            };
            match value.and_then(|value| check_size(value, &mut left)) {
                Ok(Some(value)) => items.push((item.path.clone(), value)),
                Ok(None) => {}
                Err(InvalidValue(error)) => {
                    let pod = &self.facts.pod.metadata.name;
                    let message = format!("item {} is left out for pod {pod}: {error}", item.path);
                    self.report(format!("spec.metadata[{index}]"), FindingReason::ItemUnavailable, message);
                }
            }
        }
        items
    }

    /// Evaluates an expression. All expressions of the pod share one scope, which bounds their cost.
    fn evaluate(&mut self, expression: &Expression) -> Result<Option<ItemValue>, InvalidValue> {
        let scope = self.scope.get_or_insert_with(|| Scope::new(self.facts)).as_mut().map_err(|error| error.clone())?;
        let text = expression.evaluate(scope)?.map(ItemText::try_from).transpose()?;
        Ok(text.map(ItemValue::Text))
    }

    /// Removes items whose path is a directory of the tree, or is below a leaf of it.
    pub(super) fn drop_misplaced_items(&mut self, workload: &Workload, dialect: Dialect, part: &mut DialectPart) {
        if part.items.is_empty() {
            return;
        }
        let own = dialect.protocol().own_paths(workload, part);
        let mut leaves = own.into_iter().map(|path| (path, ())).collect::<BTreeMap<_, _>>();
        part.items.retain(|(path, _)| {
            let is_misplaced = conflicts(&leaves, path.as_str());
            if is_misplaced {
                let index = self.profile.items.iter().position(|item| item.dialect == dialect && item.path == *path);
                self.report(
                    format!("spec.metadata[{}].path", index.unwrap_or_default()),
                    FindingReason::ItemMisplaced,
                    format!("item {path} would be both a leaf and a directory of the {dialect} tree; it is left out"),
                );
            } else {
                leaves.insert(path.to_string(), ());
            }
            !is_misplaced
        });
    }
}

/// Returns the value if the remaining size suffices.
fn check_size(value: Option<ItemValue>, left: &mut usize) -> Result<Option<ItemValue>, InvalidValue> {
    let size = match &value {
        Some(ItemValue::Text(text)) => text.as_str().len(),
        Some(ItemValue::PodIp | ItemValue::PodIps) | None => 0,
    };
    *left = left
        .checked_sub(size)
        .ok_or_else(|| InvalidValue(format!("the items of a dialect may hold {MAX_ITEMS_BYTES} bytes together")))?;
    Ok(value)
}
