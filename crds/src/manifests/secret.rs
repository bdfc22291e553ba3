//! Values of Secrets.

use std::fmt;

use zeroize::Zeroizing;

/// A value of a Secret: no `Display`, a fixed `Debug`, wiped from memory on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_contain_the_secret() {
        let shown = format!("{:?}", SecretBytes::new(b"hunter2".to_vec()));
        assert_eq!(shown, "SecretBytes(..)");
    }
}
