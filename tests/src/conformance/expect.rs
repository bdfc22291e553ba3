//! What must come back, held against what came.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::saved::Saved;
use super::wire::{Exchange, Response};

/// What must come back. What is absent is not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Expect {
    /// The status of each response: a number, or several where several requests are in `raw`. None at all: `[]`.
    pub status: Statuses,
    /// The reason phrase.
    pub reason: Option<String>,
    /// The whole body.
    pub body: Option<String>,
    /// The whole body, in hexadecimal digits.
    pub body_hex: Option<String>,
    /// The body's length.
    pub length: Option<usize>,
    /// A regular expression for the whole body.
    pub body_matches: Option<String>,
    /// What the body must hold.
    pub body_contains: Option<String>,
    /// What the body must not hold.
    pub body_lacks: Option<String>,
    /// What the body, decoded from base64 in lines, must hold.
    pub decoded_contains: Option<String>,
    /// The entries of a listing, all of them in order, with a line feed between them and none at the end.
    pub lines: Option<Vec<String>>,
    /// Lines that must be among those of the body.
    #[serde(default)]
    pub has_lines: Vec<String>,
    /// Lines that must not be among those of the body.
    #[serde(default)]
    pub lacks_lines: Vec<String>,
    /// Members that the body's JSON must have, at least.
    pub json: Option<serde_json::Value>,
    /// Headers and their values; `/…/` is a regular expression.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers that must not be there.
    #[serde(default)]
    pub absent: Vec<String>,
    /// What the head must hold, as it was written.
    pub head_contains: Option<String>,
    /// Whether the connection was closed by the agent after the last response.
    pub closed: Option<bool>,
    /// The hop limit that was set on the connection before the first byte of the response; `0` if none was set.
    pub hop_limit: Option<u8>,
    /// Saves the body under a name.
    pub save: Option<String>,
}

/// One status or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Statuses {
    /// That of the one response.
    One(u16),
    /// Those of all responses on the connection, in order.
    All(Vec<u16>),
}

impl Statuses {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[u16] {
        match self {
            Self::One(status) => std::slice::from_ref(status),
            Self::All(all) => all,
        }
    }
}

/// What is different, a line each.
#[derive(Debug, Default)]
pub(super) struct Differences(Vec<String>);

impl Differences {
    fn add(&mut self, what: &str, got: impl std::fmt::Debug, expected: impl std::fmt::Debug) {
        self.0.push(format!("{what}: got {got:?}, expected {expected:?}"));
    }

    /// An error that has them all, if there are any.
    pub(super) fn into_result(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("\n      {}", self.0.join("\n      "))) }
    }
}

/// Holds an exchange against what is expected; bodies and headers are those of the last response.
pub(super) fn compare(exchange: &Exchange, expect: &Expect, saved: &Saved) -> anyhow::Result<()> {
    let mut differences = Differences::default();
    let statuses = exchange.responses.iter().map(|response| response.status).collect::<Vec<_>>();
    if statuses != expect.status.all() {
        differences.add("status", &statuses, expect.status.all());
    }
    if expect.closed.is_some_and(|closed| closed != exchange.closed) {
        differences.add("closed", exchange.closed, expect.closed);
    }
    if let Some(response) = exchange.responses.last() {
        head(response, expect, saved, &mut differences)?;
        body(response, expect, saved, &mut differences)?;
    }
    differences.into_result()
}

fn head(response: &Response, expect: &Expect, saved: &Saved, differences: &mut Differences) -> anyhow::Result<()> {
    if let Some(reason) = &expect.reason
        && *reason != response.reason
    {
        differences.add("reason", &response.reason, reason);
    }
    for (name, value) in &expect.headers {
        let (got, value) = (response.header(&name.to_ascii_lowercase()), saved.fill(value)?);
        let fits = match value.strip_prefix('/').and_then(|value| value.strip_suffix('/')) {
            Some(pattern) => whole(pattern)?.is_match(got.unwrap_or_default()),
            None => got == Some(value.as_str()),
        };
        if !fits {
            differences.add(name, got, value);
        }
    }
    for name in &expect.absent {
        if let Some(value) = response.header(&name.to_ascii_lowercase()) {
            differences.add(name, value, "nothing");
        }
    }
    if let Some(part) = &expect.head_contains
        && !response.head.contains(part.as_str())
    {
        differences.add("head", &response.head, part);
    }
    if let Some(hops) = expect.hop_limit
        && hops != response.hop_limit
    {
        differences.add("hop limit", response.hop_limit, hops);
    }
    Ok(())
}

fn body(response: &Response, expect: &Expect, saved: &Saved, differences: &mut Differences) -> anyhow::Result<()> {
    let bytes = response.body.as_slice();
    let text = String::from_utf8_lossy(bytes);
    if let Some(body) = &expect.body {
        let body = saved.fill(body)?;
        if body.as_bytes() != bytes {
            differences.add("body", &text, body);
        }
    }
    if let Some(hex) = &expect.body_hex {
        let got = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if got != *hex {
            differences.add("body", got, hex);
        }
    }
    if let Some(length) = expect.length
        && length != bytes.len()
    {
        differences.add("length", bytes.len(), length);
    }
    if let Some(pattern) = &expect.body_matches {
        let pattern = saved.fill(pattern)?;
        if !whole(&pattern)?.is_match(&text) {
            differences.add("body", &text, pattern);
        }
    }
    for (part, is_there) in [(&expect.body_contains, true), (&expect.body_lacks, false)] {
        let Some(part) = part else { continue };
        let part = saved.fill(part)?;
        if text.contains(&part) != is_there {
            differences.add(if is_there { "body without" } else { "body with" }, &text, part);
        }
    }
    if let Some(part) = &expect.decoded_contains {
        let part = saved.fill(part)?;
        let decoded = STANDARD.decode(text.replace('\n', "")).unwrap_or_default();
        if !decoded.windows(part.len().max(1)).any(|window| window == part.as_bytes()) {
            differences.add("decoded body", String::from_utf8_lossy(&decoded), part);
        }
    }
    listing(&text, expect, saved, differences)?;
    if let Some(json) = &expect.json {
        let (got, json) = (serde_json::from_str::<Value>(&text).unwrap_or(Value::Null), saved.fill_value(json)?);
        if !includes(&got, &json) {
            differences.add("JSON", &text, json.to_string());
        }
    }
    Ok(())
}

fn listing(text: &str, expect: &Expect, saved: &Saved, differences: &mut Differences) -> anyhow::Result<()> {
    let lines = text.split('\n').collect::<Vec<_>>();
    if let Some(expected) = &expect.lines {
        let expected = expected.iter().map(|line| saved.fill(line)).collect::<anyhow::Result<Vec<_>>>()?;
        if lines != expected {
            differences.add("lines", &lines, expected);
        }
    }
    for (some, are_there) in [(&expect.has_lines, true), (&expect.lacks_lines, false)] {
        for line in some {
            if lines.contains(&saved.fill(line)?.as_str()) != are_there {
                differences.add(if are_there { "lines without" } else { "lines with" }, &lines, line);
            }
        }
    }
    Ok(())
}

/// A pattern for a whole text.
fn whole(pattern: &str) -> anyhow::Result<Regex> {
    Regex::new(&format!("(?s)^(?:{pattern})$")).with_context(|| pattern.to_owned())
}

/// Whether `got` has all that `expected` has: objects may have more members.
fn includes(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| got.get(name).is_some_and(|got| includes(got, value)))
        }
        _ => got == expected,
    }
}
