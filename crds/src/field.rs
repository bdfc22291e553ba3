//! What is wrong with an object, field by field. A conversion collects all of it, not just the first.

use std::fmt;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path from the object's root, such as `spec.roles[0].secret.name`.
    pub field: String,
    /// What is wrong; reads well after the path.
    pub message: String,
}

/// Collects errors while the rest of the object is still looked at.
#[derive(Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn add(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.0.push(FieldError { field: field.to_string(), message: message.to_string() });
    }

    /// The value, or `None` once the error is noted.
    pub(crate) fn keep<T, E: fmt::Display>(&mut self, field: impl fmt::Display, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// Converts what is there; what is absent stays absent.
    pub(crate) fn keep_some<T, I, E: fmt::Display>(
        &mut self,
        field: impl fmt::Display,
        value: Option<I>,
        convert: impl FnOnce(I) -> Result<T, E>,
    ) -> Option<T> {
        value.and_then(|value| self.keep(field, convert(value)))
    }

    /// Converts each element of a list, and notes a list that is too long.
    pub(crate) fn keep_all<'i, T, I, E: fmt::Display>(
        &mut self,
        field: &str,
        most: usize,
        list: &'i [I],
        convert: impl Fn(&'i I) -> Result<T, E>,
    ) -> Vec<T> {
        self.limit(field, list.len(), most);
        let kept = list.iter().enumerate().map(|(at, item)| self.keep(format_args!("{field}[{at}]"), convert(item)));
        kept.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Notes a list that is too long.
    pub(crate) fn limit(&mut self, field: impl fmt::Display, found: usize, most: usize) {
        if found > most {
            self.add(field, format_args!("may have {most} entries at most, not {found}"));
        }
    }

    /// Notes every element that has a twin before it.
    pub(crate) fn distinct<T: Ord>(&mut self, field: &str, list: impl IntoIterator<Item = T>, message: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for (at, item) in list.into_iter().enumerate() {
            if !seen.insert(item) {
                self.add(format_args!("{field}[{at}]"), message);
            }
        }
    }

    /// `value` if nothing was wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(self.0),
        }
    }
}

/// Refuses a number outside of a range.
pub(crate) fn in_range(number: i64, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be {} to {}, not {number}", range.start(), range.end()))
    }
}
