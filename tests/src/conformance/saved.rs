//! Named values that a case saves and the substitution of `${name}` in texts.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Saved values by name.
#[derive(Debug, Default)]
pub(super) struct SavedValues(BTreeMap<String, Vec<u8>>);

impl SavedValues {
    /// Returns the predefined values: `long` (100 kB of letters), `kilobyte` (1024 letters), `many` (100 headers).
    pub(super) fn predefined() -> Self {
        let mut texts = Self::default();
        texts.save("long", vec![b'a'; 100_000]);
        texts.save("kilobyte", vec![b'a'; 1024]);
        let headers = (1..=100).map(|number| format!("X-{number}: {number}")).collect::<Vec<_>>();
        texts.save("many", headers.join("\r\n").into_bytes());
        texts
    }

    pub(super) fn save(&mut self, name: &str, value: Vec<u8>) {
        self.0.insert(name.to_owned(), value);
    }

    pub(super) fn get(&self, name: &str) -> anyhow::Result<&[u8]> {
        self.0.get(name).map(Vec::as_slice).with_context(|| format!("no saved value named {name}"))
    }

    /// Replaces each `${name}` in a text.
    pub(super) fn fill(&self, text: &str) -> anyhow::Result<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').with_context(|| format!("{text:?} has no }}"))?;
            filled.push_str(before);
            filled.push_str(std::str::from_utf8(self.get(name)?).context("a saved value is not text")?);
            rest = after;
        }
        Ok(filled + rest)
    }

    /// Replaces each `${name}` in the strings of JSON values.
    pub(super) fn fill_all(&self, values: &[Value]) -> anyhow::Result<Vec<Value>> {
        values.iter().map(|value| self.fill_value(value)).collect()
    }

    /// Replaces each `${name}` in the strings of a JSON value.
    pub(super) fn fill_value(&self, value: &Value) -> anyhow::Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.fill(text)?),
            Value::Array(values) => Value::Array(self.fill_all(values)?),
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| Ok((name.clone(), self.fill_value(value)?)));
                Value::Object(members.collect::<anyhow::Result<_>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    /// Replaces each `${name}` and converts each character to one byte.
    ///
    /// # Errors
    /// Fails on a character above U+00FF.
    pub(super) fn bytes(&self, text: &str) -> anyhow::Result<Vec<u8>> {
        let filled = self.fill(text)?;
        ensure!(filled.chars().all(|c| u32::from(c) < 256), "{text:?} has a character above U+00FF");
        Ok(filled.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_value_replaces_its_name() {
        let mut saved = SavedValues::default();
        saved.save("t", b"abc".to_vec());
        assert_eq!(saved.fill("x ${t}${t} y").unwrap(), "x abcabc y");
        assert_eq!(saved.bytes("\u{ff}${t}").unwrap(), b"\xffabc");
        assert!(saved.fill("${u}").is_err());
        assert!(saved.fill("${t").is_err());
        assert!(saved.bytes("\u{100}").is_err());
    }
}
