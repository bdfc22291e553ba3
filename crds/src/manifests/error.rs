//! Locations in files, and errors with a location.

use std::fmt;
use std::sync::Arc;

use super::yaml::FieldLines;
use crate::convert::json::join_path;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The name of the file.
    pub file: Arc<str>,
    /// The line number. The first line is 1.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An error in a file. It is displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// The name of the file.
    pub file: Arc<str>,
    /// The line number. The first line is 1.
    pub line: usize,
    /// The object, such as `MetadataProfile default/web`. Empty if it is not known.
    pub object: String,
    /// The field, such as `spec.roles[0].secret.name`. Empty if the error applies to the whole object.
    pub field: String,
    /// Error in the field, such as `must not be empty`.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}:{}", self.file, self.line);
        for part in [&self.object, &self.field, &self.message] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        // Names and messages can contain control characters of the file.
        f.write_str(&text.replace(char::is_control, " "))
    }
}

/// The part of a file that contains one object.
#[derive(Clone, Debug)]
pub(super) struct ObjectSource {
    pub(super) file: Arc<str>,
    pub(super) lines: Arc<FieldLines>,
    /// The path of the object in its document, such as `items[3]`.
    pub(super) base: String,
}

impl ObjectSource {
    /// Returns the location of a field of the object, or of its nearest parent that the file contains.
    pub(super) fn locate(&self, field: &str) -> Location {
        Location { file: Arc::clone(&self.file), line: self.lines.line_of(&join_path(&self.base, field)) }
    }

    /// Returns the source of an object that is a field of this one.
    pub(super) fn nested(&self, field: &str) -> Self {
        Self { base: join_path(&self.base, field), ..self.clone() }
    }

    pub(super) fn error(&self, object: &str, field: &str, message: impl fmt::Display) -> ManifestError {
        let Location { file, line } = self.locate(field);
        ManifestError { file, line, object: object.to_owned(), field: field.to_owned(), message: message.to_string() }
    }
}
