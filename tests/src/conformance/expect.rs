//! Expected responses and their comparison with actual ones.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::saved::SavedValues;
use super::wire::{Exchange, WireResponse};

/// The expected response. Absent fields are not compared.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Expect {
    /// The status of each response: a number, or a list if `raw` has several requests. `[]` expects no response.
    pub status: Statuses,
    /// The reason phrase.
    pub reason: Option<String>,
    /// The whole body.
    pub body: Option<String>,
    /// The whole body as hexadecimal digits.
    pub body_hex: Option<String>,
    /// The length of the body in bytes.
    pub length: Option<usize>,
    /// The maximum length of the body in bytes.
    pub max_length: Option<usize>,
    /// The maximum length of the status line and the headers in bytes.
    pub max_head: Option<usize>,
    /// A regular expression that must match the whole body.
    pub body_matches: Option<String>,
    /// A text that the body must contain.
    pub body_contains: Option<String>,
    /// A text that the body must not contain.
    pub body_lacks: Option<String>,
    /// A text that the body must contain after base64 decoding. Line breaks are ignored.
    pub decoded_contains: Option<String>,
    /// All lines of a listing in order. The last line has no line feed.
    pub lines: Option<Vec<String>>,
    /// Lines that the body must have.
    #[serde(default)]
    pub has_lines: Vec<String>,
    /// Lines that the body must not have.
    #[serde(default)]
    pub lacks_lines: Vec<String>,
    /// Members that the JSON body must have. Additional members are allowed.
    pub json: Option<serde_json::Value>,
    /// Required headers and their values. `/…/` is a regular expression.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers that must be absent.
    #[serde(default)]
    pub absent: Vec<String>,
    /// A text that the raw response head must contain.
    pub head_contains: Option<String>,
    /// True if the agent must close the connection after the last response.
    pub closed: Option<bool>,
    /// The hop limit set on the connection before the first byte of the response, or `0` if none was set.
    pub hop_limit: Option<u8>,
    /// The name under which the body is saved.
    pub save: Option<String>,
}

/// One or more status codes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Statuses {
    /// The status of a single response.
    One(u16),
    /// The statuses of all responses, in order.
    All(Vec<u16>),
}

impl Statuses {
    /// Returns all statuses.
    #[must_use]
    pub fn all(&self) -> &[u16] {
        match self {
            Self::One(status) => std::slice::from_ref(status),
            Self::All(all) => all,
        }
    }
}

/// Differences between expected and actual response, one per line.
#[derive(Debug, Default)]
pub(super) struct Differences(Vec<String>);

impl Differences {
    fn add(&mut self, what: &str, got: impl std::fmt::Debug, expected: impl std::fmt::Debug) {
        self.0.push(format!("{what}: got {got:?}, expected {expected:?}"));
    }

    /// Returns an error with all differences, if any.
    pub(super) fn into_result(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("\n      {}", self.0.join("\n      "))) }
    }
}

/// Compares an exchange with the expectation. Body and headers are those of the last response.
pub(super) fn compare(exchange: &Exchange, expect: &Expect, saved: &SavedValues) -> anyhow::Result<()> {
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

fn head(
    response: &WireResponse,
    expect: &Expect,
    saved: &SavedValues,
    differences: &mut Differences,
) -> anyhow::Result<()> {
    if let Some(reason) = &expect.reason
        && *reason != response.reason
    {
        differences.add("reason", &response.reason, reason);
    }
    for (name, value) in &expect.headers {
        let (got, value) = (response.header(&name.to_ascii_lowercase()), saved.fill(value)?);
        let matches = match value.strip_prefix('/').and_then(|value| value.strip_suffix('/')) {
            Some(pattern) => whole(pattern)?.is_match(got.unwrap_or_default()),
            None => got == Some(value.as_str()),
        };
        if !matches {
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
    if let Some(most) = expect.max_head
        && response.head.len() > most
    {
        differences.add("length of the head", response.head.len(), format!("at most {most}"));
    }
    if let Some(hops) = expect.hop_limit
        && hops != response.hop_limit
    {
        differences.add("hop limit", response.hop_limit, hops);
    }
    Ok(())
}

fn body(
    response: &WireResponse,
    expect: &Expect,
    saved: &SavedValues,
    differences: &mut Differences,
) -> anyhow::Result<()> {
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
    if let Some(most) = expect.max_length
        && bytes.len() > most
    {
        differences.add("length", bytes.len(), format!("at most {most}"));
    }
    if let Some(pattern) = &expect.body_matches {
        let pattern = saved.fill(pattern)?;
        if !whole(&pattern)?.is_match(&text) {
            differences.add("body", &text, pattern);
        }
    }
    for (part, must_contain) in [(&expect.body_contains, true), (&expect.body_lacks, false)] {
        let Some(part) = part else { continue };
        let part = saved.fill(part)?;
        if text.contains(&part) != must_contain {
            differences.add(if must_contain { "body without" } else { "body with" }, &text, part);
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

fn listing(text: &str, expect: &Expect, saved: &SavedValues, differences: &mut Differences) -> anyhow::Result<()> {
    let lines = text.split('\n').collect::<Vec<_>>();
    if let Some(expected) = &expect.lines {
        let expected = expected.iter().map(|line| saved.fill(line)).collect::<anyhow::Result<Vec<_>>>()?;
        if lines != expected {
            differences.add("lines", &lines, expected);
        }
    }
    for (some, must_contain) in [(&expect.has_lines, true), (&expect.lacks_lines, false)] {
        for line in some {
            if lines.contains(&saved.fill(line)?.as_str()) != must_contain {
                differences.add(if must_contain { "lines without" } else { "lines with" }, &lines, line);
            }
        }
    }
    Ok(())
}

/// Compiles a regular expression that must match a whole text.
fn whole(pattern: &str) -> anyhow::Result<Regex> {
    Regex::new(&format!("(?s)^(?:{pattern})$")).with_context(|| pattern.to_owned())
}

/// Returns true if `got` equals `expected`, except for additional members of objects.
fn includes(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| got.get(name).is_some_and(|got| includes(got, value)))
        }
        _ => got == expected,
    }
}
