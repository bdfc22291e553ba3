//! Secret text: no `Display`, a fixed `Debug`, and wiped from memory on drop. Errors of JSON with secret values.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A secret text. [`SecretString::expose`] is the only way to read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes ownership of a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The position of an error in JSON that can contain a secret. The text of [`serde_json::Error`] quotes values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected JSON at line {line}, column {column}")]
pub struct JsonErrorPosition {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, or 0 before the first byte of a line.
    pub column: usize,
}

impl From<&serde_json::Error> for JsonErrorPosition {
    fn from(error: &serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_contain_the_secret() {
        let shown = format!("{:?}", SecretString::new("hunter2".to_owned()));
        assert_eq!(shown, "Secret(..)");
    }
}
