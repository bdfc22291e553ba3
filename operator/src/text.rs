//! Shortens texts, replaces control characters and formats names of objects, for messages, events and logs.

/// Shortens a text to at most `max_bytes`, which must be at least 3. A shortened text ends with an ellipsis.
#[must_use]
pub fn truncate(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len_utf8()));
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    short.push(ELLIPSIS);
    short
}

/// Replaces each control character with a space.
#[must_use]
pub fn replace_control_characters(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Formats the name of an object for the log: `NAMESPACE/NAME`, or `NAME` if the object has no namespace.
#[must_use]
pub fn format_object(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_text_ends_at_a_character_boundary() {
        assert_eq!(truncate("ééé", 6), "ééé");
        assert_eq!(truncate("éééé", 6), "é…");
        assert_eq!(truncate("aaaaaaa", 6), "aaa…");
    }
}
