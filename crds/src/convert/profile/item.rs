//! Converts `spec.metadata`: the items that a profile adds to the tree.

use std::collections::BTreeSet;

use podmeta_metadata::cel::Expression;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::item::{FieldPath, Item, ItemPath, ItemSource, ItemText};

use crate::convert::field::FieldErrors;
use crate::metadataprofile::{FieldRefSpec, ItemSpec, MAX_FIELD_PATH_BYTES, MAX_ITEMS, messages};

/// Returns the valid items. Adds an error for each invalid one.
pub(super) fn convert(list: &[ItemSpec], dialects: &BTreeSet<Dialect>, errors: &mut FieldErrors) -> Vec<Item> {
    let field = "spec.metadata";
    errors.check_length(field, list.len(), MAX_ITEMS);
    errors.check_unique(field, list.iter().map(|item| (item.dialect, &item.path)), messages::DUPLICATE_ITEM);
    let items = list.iter().enumerate().filter_map(|(index, spec)| {
        let field = format!("{field}[{index}]");
        if !dialects.contains(&spec.dialect) {
            errors.add(format_args!("{field}.dialect"), messages::ITEM_DIALECT);
        }
        convert_item(&field, spec, errors)
    });
    items.collect()
}

fn convert_item(field: &str, spec: &ItemSpec, errors: &mut FieldErrors) -> Option<Item> {
    let path = ItemPath::try_from(spec.path.as_str()).and_then(|path| path.check(spec.dialect).map(|()| path));
    let path = errors.record(format_args!("{field}.path"), path);
    let source = convert_source(field, spec, errors);
    Some(Item { dialect: spec.dialect, path: path?, source: source? })
}

fn convert_source(field: &str, spec: &ItemSpec, errors: &mut FieldErrors) -> Option<ItemSource> {
    match (&spec.value, &spec.field_ref, &spec.expression) {
        (Some(text), None, None) => {
            let text = ItemText::try_from(text.as_str());
            errors.record(format_args!("{field}.value"), text).map(ItemSource::Value)
        }
        (None, Some(reference), None) => errors
            .record(format_args!("{field}.fieldRef.fieldPath"), parse_field_path(reference))
            .map(ItemSource::Field),
        (None, None, Some(expression)) => errors
            .record(format_args!("{field}.expression"), compile_expression(expression))
            .map(ItemSource::Expression),
        (None | Some(_), None | Some(_), None | Some(_)) => {
            errors.add(field, messages::ONE_ITEM_SOURCE);
            None
        }
    }
}

fn compile_expression(source: &str) -> Result<Expression, String> {
    if source.is_empty() {
        return Err("must not be empty".to_owned());
    }
    Expression::compile(source).map_err(|error| error.to_string())
}

fn parse_field_path(reference: &FieldRefSpec) -> Result<FieldPath, String> {
    let path = reference.field_path.as_str();
    if path.len() > MAX_FIELD_PATH_BYTES {
        return Err(format!("must be at most {MAX_FIELD_PATH_BYTES} bytes long"));
    }
    FieldPath::try_from(path).map_err(|error| error.to_string())
}
