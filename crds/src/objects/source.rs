//! Where an object was read, and what is wrong with it.

use std::fmt;
use std::sync::Arc;

use crate::yaml::{self, Lines};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong, and where. It shows as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: usize,
    /// The object, such as `MetadataProfile default/web`; empty if it is not known.
    pub object: String,
    /// The field, such as `spec.roles[0].secret.name`; empty if it is the whole object.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}:{}", self.file, self.line);
        for part in [&self.object, &self.field, &self.message] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        // A name or a message may hold what a file says.
        f.write_str(&text.replace(char::is_control, " "))
    }
}

/// The part of a file that an object was read from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) file: Arc<str>,
    pub(super) lines: Arc<Lines>,
    /// Where the object stands in its document, such as `items[3]`.
    pub(super) base: String,
}

impl Source {
    /// The place of a field of the object, or of the nearest one above it that was written.
    pub(super) fn locate(&self, field: &str) -> Location {
        Location { file: Arc::clone(&self.file), line: self.lines.of(&yaml::join(&self.base, field)) }
    }

    /// The object that stands in a field of this one.
    pub(super) fn below(&self, field: &str) -> Self {
        Self { base: yaml::join(&self.base, field), ..self.clone() }
    }

    pub(super) fn problem(&self, object: &str, field: &str, message: impl fmt::Display) -> Problem {
        let Location { file, line } = self.locate(field);
        Problem { file, line, object: object.to_owned(), field: field.to_owned(), message: message.to_string() }
    }
}
