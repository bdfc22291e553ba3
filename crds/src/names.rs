//! Names as Kubernetes takes them: each pattern of the schema beside the function that checks the same.

use schemars::{Schema, SchemaGenerator};

use crate::schema;

/// A DNS subdomain, which names most objects.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a ConfigMap or Secret.
const DATA_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// A label's key: a name with an optional prefix.
const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
/// A label's value.
const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

pub(crate) fn object_name_schema(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(1..=253, SUBDOMAIN)
}

pub(crate) fn data_key_schema(_: &mut SchemaGenerator) -> Schema {
    schema::segment(1..=253, DATA_KEY)
}

pub(crate) fn label_key_schema(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(1..=317, LABEL_KEY)
}

pub(crate) fn label_value() -> Schema {
    schema::ascii(0..=63, LABEL_VALUE)
}

/// Checks the name of an object.
pub(crate) fn object_name(text: &str) -> Result<(), String> {
    let ok = length(text, 1, 253)?
        && text.split('.').all(|part| ends_in(part, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), b"-"));
    ok.then_some(()).ok_or_else(|| "must be lower case letters, digits, - and . as object names are".to_owned())
}

/// Checks a key of a ConfigMap or Secret.
pub(crate) fn data_key(text: &str) -> Result<(), String> {
    let ok = length(text, 1, 253)? && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if matches!(text, "." | "..") {
        return Err("must not be a dot segment".to_owned());
    }
    ok.then_some(()).ok_or_else(|| "must contain letters, digits and -._ only".to_owned())
}

/// Checks a label's key.
pub(crate) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = length(text, 1, 317)?
        && ends_in(name, |b| b.is_ascii_alphanumeric(), b"-_.")
        && prefix.is_none_or(|prefix| ends_in(prefix, lower, b"-."));
    ok.then_some(()).ok_or_else(|| "must be a label's key, such as app or example.com/app".to_owned())
}

/// Checks a label's value.
pub(crate) fn check_label_value(text: &str) -> Result<(), String> {
    let ok = length(text, 0, 63)? && (text.is_empty() || ends_in(text, |b| b.is_ascii_alphanumeric(), b"-_."));
    ok.then_some(()).ok_or_else(|| "must be a label's value: letters and digits, with -_. between them".to_owned())
}

fn length(text: &str, least: usize, most: usize) -> Result<bool, String> {
    if (least..=most).contains(&text.len()) {
        Ok(true)
    } else {
        Err(format!("must be {least} to {most} bytes long, not {}", text.len()))
    }
}

/// Whether the text starts and ends with a character that `outer` takes and holds nothing but those and `inner`.
fn ends_in(text: &str, outer: fn(u8) -> bool, inner: &[u8]) -> bool {
    text.bytes().next().is_some_and(outer)
        && text.bytes().next_back().is_some_and(outer)
        && text.bytes().all(|b| outer(b) || inner.contains(&b))
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn a_pattern_and_its_function_say_the_same() {
        let texts = [
            "", "a", "A", "web", "web-1", "-web", "web-", "a.b", "a..b", ".", "..", ".a", "a/b", "a.b/c", "A.b/c",
            "a/", "/b", "a/b/c", "_a", "a_b", "a_", "ä", "a b", "a\n", "1", "1.2", "a.-b", "b-/c", "...",
        ];
        let dots = |text: &str| !matches!(text, "." | "..");
        for text in texts {
            let fits = |pattern: &str| Regex::new(pattern).unwrap().is_match(text);
            assert_eq!(object_name(text).is_ok(), fits(SUBDOMAIN), "{text:?} as a name");
            assert_eq!(data_key(text).is_ok(), fits(DATA_KEY) && dots(text), "{text:?} as a data key");
            assert_eq!(label_key(text).is_ok(), fits(LABEL_KEY), "{text:?} as a label key");
            assert_eq!(check_label_value(text).is_ok(), fits(LABEL_VALUE), "{text:?} as a label value");
        }
    }
}
