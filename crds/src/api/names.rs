//! Kubernetes names: for each kind, a pattern for the schema and a function that accepts the same texts.

use schemars::{Schema, SchemaGenerator};

use super::schema;

/// Pattern of a DNS subdomain: the name of most objects.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Pattern of a key of a ConfigMap or Secret.
const DATA_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// Pattern of a label key: a name, with an optional prefix and a slash. Only the length of the whole key is limited:
/// 317 bytes are a prefix of 253, the slash and a name of 63.
const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
/// Pattern of a label value.
const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

pub(super) fn object_name_schema(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(1..=253, SUBDOMAIN)
}

pub(super) fn data_key_schema(_: &mut SchemaGenerator) -> Schema {
    schema::segment(1..=253, DATA_KEY)
}

pub(super) fn label_key_schema(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(1..=317, LABEL_KEY)
}

pub(super) fn label_value_schema() -> Schema {
    schema::ascii(0..=63, LABEL_VALUE)
}

/// Checks the name of an object.
pub(crate) fn check_object_name(text: &str) -> Result<(), String> {
    let ok = check_length(text, 1, 253)?
        && text.split('.').all(|label| is_enclosed(label, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), b"-"));
    ok.then_some(()).ok_or_else(|| "must be an object name: lower case letters, digits, - and .".to_owned())
}

/// Checks a key of a ConfigMap or Secret.
pub(crate) fn check_data_key(text: &str) -> Result<(), String> {
    let ok = check_length(text, 1, 253)? && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if matches!(text, "." | "..") {
        return Err("must not be a dot segment".to_owned());
    }
    ok.then_some(()).ok_or_else(|| "must contain letters, digits and -._ only".to_owned())
}

/// Checks a label key.
pub(crate) fn check_label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = check_length(text, 1, 317)?
        && is_enclosed(name, |b| b.is_ascii_alphanumeric(), b"-_.")
        && prefix.is_none_or(|prefix| is_enclosed(prefix, lower, b"-."));
    ok.then_some(()).ok_or_else(|| "must be a label key, such as app or example.com/app".to_owned())
}

/// Checks a label value.
pub(crate) fn check_label_value(text: &str) -> Result<(), String> {
    let ok =
        check_length(text, 0, 63)? && (text.is_empty() || is_enclosed(text, |b| b.is_ascii_alphanumeric(), b"-_."));
    ok.then_some(()).ok_or_else(|| "must be a label value: letters and digits, with -_. between them".to_owned())
}

fn check_length(text: &str, min: usize, max: usize) -> Result<bool, String> {
    if (min..=max).contains(&text.len()) {
        Ok(true)
    } else {
        Err(format!("must be {min} to {max} bytes long, not {}", text.len()))
    }
}

/// Returns true if the text starts and ends with an `outer` character and contains only `outer` and `inner` characters.
fn is_enclosed(text: &str, outer: fn(u8) -> bool, inner: &[u8]) -> bool {
    text.bytes().next().is_some_and(outer)
        && text.bytes().next_back().is_some_and(outer)
        && text.bytes().all(|b| outer(b) || inner.contains(&b))
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn patterns_and_functions_agree() {
        let texts = [
            "", "a", "A", "web", "web-1", "-web", "web-", "a.b", "a..b", ".", "..", ".a", "a/b", "a.b/c", "A.b/c",
            "a/", "/b", "a/b/c", "_a", "a_b", "a_", "ä", "a b", "a\n", "1", "1.2", "a.-b", "b-/c", "...",
        ];
        let is_not_dots = |text: &str| !matches!(text, "." | "..");
        for text in texts {
            let is_match = |pattern: &str| Regex::new(pattern).unwrap().is_match(text);
            assert_eq!(check_object_name(text).is_ok(), is_match(SUBDOMAIN), "{text:?} as a name");
            assert_eq!(check_data_key(text).is_ok(), is_match(DATA_KEY) && is_not_dots(text), "{text:?} as a data key");
            assert_eq!(check_label_key(text).is_ok(), is_match(LABEL_KEY), "{text:?} as a label key");
            assert_eq!(check_label_value(text).is_ok(), is_match(LABEL_VALUE), "{text:?} as a label value");
        }
    }
}
