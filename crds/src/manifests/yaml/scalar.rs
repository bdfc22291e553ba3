//! Resolves scalars by the rules of YAML 1.1, as `kubectl` does. Source: `sigs.k8s.io/yaml`.

use serde_json::{Number, Value};
use serde_saphyr::granit_parser::{ScalarStyle, Tag};

/// Returns true if a key is the merge key.
pub(super) fn is_merge_key(text: &str, style: ScalarStyle) -> bool {
    text == "<<" && style == ScalarStyle::Plain
}

/// Returns the value of a scalar.
pub(super) fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { resolve_plain(text) } else { Ok(text.into()) };
    };
    let value = resolve_plain(text)?;
    match (tag.core_suffix(), &value) {
        (Some("str"), _) => Ok(text.into()),
        (Some("null"), Value::Null) | (Some("bool"), Value::Bool(_)) | (Some("float"), Value::Number(_)) => Ok(value),
        (Some("int"), Value::Number(number)) if !number.is_f64() => Ok(value),
        (Some(_) | None, _) => Err(format!("the tag {} is not allowed here", tag.original())),
    }
}

fn resolve_plain(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        _ if is_not_finite(text) => return Err(format!("{text} has no JSON representation")),
        _ => parse_number(text).map_or_else(|| text.into(), Value::Number),
    })
}

fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

fn parse_number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let digits = text.replace('_', "");
    parse_integer(&digits).or_else(|| {
        let is_decimal = digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
        digits.parse().ok().filter(|_| is_decimal).and_then(Number::from_f64)
    })
}

/// Parses an integer like Go's `ParseInt` with base 0: a leading zero means octal.
fn parse_integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((radix, lower.strip_prefix(prefix)?)))
        .or_else(|| Some((8, lower.strip_prefix('0').filter(|rest| !rest.is_empty())?)))
        .unwrap_or((10, lower.as_str()));
    if !digits.chars().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Number::from_i128(if negative { -number } else { number })
}
