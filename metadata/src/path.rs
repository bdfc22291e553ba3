//! Canonical paths. Every spelling of a path is looked up in its canonical form. A path without one is not found.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A path without leading, trailing or doubled slashes and without `.` segments, percent-decoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    path: Cow<'a, str>,
    /// Length of the first segment, in bytes.
    first_length: usize,
}

impl<'a> CanonicalPath<'a> {
    /// Parses the path of a request target, without its query. Returns `None` if no item can have the path: it has a `..`
    /// segment, an encoded slash, bytes that are not UTF-8, or a control character.
    #[must_use]
    pub fn parse(raw: &'a str) -> Option<Self> {
        let trimmed = raw.trim_matches('/');
        // Fast path: most paths are canonical.
        if is_plain(trimmed) {
            return Some(Self::new(Cow::Borrowed(trimmed)));
        }
        let mut path = String::with_capacity(trimmed.len());
        for segment in trimmed.split('/').filter(|segment| !segment.is_empty()) {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            if segment == "." {
                continue;
            }
            if segment == ".." || segment.contains('/') || segment.chars().any(char::is_control) {
                return None;
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&segment);
        }
        Some(Self::new(Cow::Owned(path)))
    }

    fn new(path: Cow<'a, str>) -> Self {
        let first_length = path.bytes().position(|byte| byte == b'/').unwrap_or(path.len());
        Self { path, first_length }
    }

    /// Returns the version prefix and the path below it. Both are empty for `/`.
    #[must_use]
    pub fn split_first(&self) -> (&str, &str) {
        let (first, below) = self.path.split_at(self.first_length);
        (first, below.strip_prefix('/').unwrap_or_default())
    }
}

/// Returns true if a path has only letters, digits, `-`, `_`, `:` and single slashes. Reads all bytes without a branch, so
/// that the compiler can check several bytes with one instruction.
fn is_plain(path: &str) -> bool {
    let is_plain_byte = |byte: u8| byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'_' | b'/' | b':');
    path.bytes().fold(true, |is_plain, byte| is_plain & is_plain_byte(byte)) && !path.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(raw: &str) -> Option<(String, String)> {
        CanonicalPath::parse(raw).map(|path| {
            let (first, rest) = path.split_first();
            (first.to_owned(), rest.to_owned())
        })
    }

    #[test]
    fn spellings_of_a_path_have_one_canonical_form() {
        let one = Some(("latest".to_owned(), "meta-data/ami-id".to_owned()));
        for raw in [
            "/latest/meta-data/ami-id",
            "/latest/meta-data/ami-id/",
            "//latest//meta-data///ami-id//",
            "/latest/%6deta-data/ami-id",
            "/%6Catest/meta%2Ddata/ami%2did",
            "/latest/meta-data/./ami-id",
            "/./latest/%2e/meta-data/ami-id/.",
        ] {
            assert_eq!(split(raw), one, "{raw}");
        }
        assert_eq!(split("/"), Some((String::new(), String::new())));
        assert_eq!(split("/latest/"), Some(("latest".to_owned(), String::new())));
    }

    #[test]
    fn path_that_no_item_can_have_has_no_canonical_form() {
        for raw in ["/a/../b", "/a/%2e%2e/b", "/a/.%2e", "/a%2fb", "/a%00b", "/%ff", "/a%0d%0ab"] {
            assert_eq!(split(raw), None, "{raw}");
        }
    }

    #[test]
    fn path_is_percent_decoded_once() {
        assert_eq!(split("/a/%252e%252e/b"), Some(("a".to_owned(), "%2e%2e/b".to_owned())));
        assert_eq!(split("/a/%5c"), Some(("a".to_owned(), "\\".to_owned())));
    }
}
