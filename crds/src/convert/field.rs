//! Errors of an object, by field. A conversion reports all errors of an object, not only the first.

use std::fmt;

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path from the root of the object, such as `spec.roles[0].secret.name`.
    pub field: String,
    /// The error, such as `must be 1 to 64`.
    pub message: String,
}

/// Collects the errors of one object.
#[derive(Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn add(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.0.push(FieldError { field: field.to_string(), message: message.to_string() });
    }

    /// Returns the value, or adds the error and returns `None`.
    pub(crate) fn record<T, E: fmt::Display>(&mut self, field: impl fmt::Display, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// Converts an optional value.
    pub(crate) fn convert_optional<T, I, E: fmt::Display>(
        &mut self,
        field: impl fmt::Display,
        value: Option<I>,
        convert: impl FnOnce(I) -> Result<T, E>,
    ) -> Option<T> {
        value.and_then(|value| self.record(field, convert(value)))
    }

    /// Converts each element of a list, and checks the length of the list. Returns the valid elements.
    pub(crate) fn convert_list<'i, T, I, E: fmt::Display>(
        &mut self,
        field: &str,
        max_length: usize,
        list: &'i [I],
        convert: impl Fn(&'i I) -> Result<T, E>,
    ) -> Vec<T> {
        self.check_length(field, list.len(), max_length);
        let elements = list.iter().enumerate();
        elements.filter_map(|(index, item)| self.record(format_args!("{field}[{index}]"), convert(item))).collect()
    }

    /// Adds an error if a list or map has too many elements.
    pub(crate) fn check_length(&mut self, field: impl fmt::Display, length: usize, max_length: usize) {
        if length > max_length {
            self.add(field, format_args!("must have at most {max_length} entries, not {length}"));
        }
    }

    /// Adds an error for each element that is equal to an earlier one.
    pub(crate) fn check_unique<T: Ord>(&mut self, field: &str, list: impl IntoIterator<Item = T>, message: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in list.into_iter().enumerate() {
            if !seen.insert(item) {
                self.add(format_args!("{field}[{index}]"), message);
            }
        }
    }

    /// Returns `value` if there are no errors. Otherwise returns all errors. A caller passes `None` only
    /// after it has added an error.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(self.0),
        }
    }
}

/// The error message for a list element that is equal to an earlier one.
pub(crate) const DUPLICATE: &str = "duplicate value";

/// The error message for a required field that is absent.
pub(crate) const REQUIRED: &str = "is required";

/// Checks that a number is in a range.
pub(crate) fn check_range(number: i64, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be {} to {}, not {number}", range.start(), range.end()))
    }
}
