//! Bytes of a Secret, which must never be shown.

use std::fmt;

use zeroize::Zeroizing;

/// A value of a Secret: no `Display`, a fixed `Debug`, wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one who must use them.
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
    fn bytes_do_not_show_in_debug_output() {
        let shown = format!("{:?}", SecretBytes::new(b"hunter2".to_vec()));
        assert_eq!(shown, "SecretBytes(..)");
    }
}
