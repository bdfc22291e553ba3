//! Patterns for names and ARNs.

use crate::names::{check_text, text_type};

text_type!(
    /// A pattern for a whole text. `*` matches any number of characters, `?` matches one. Other characters match
    /// themselves.
    Glob,
    |text| check_text(text, 1..=2048, |c| c.is_ascii_graphic(), "visible ASCII characters")
);

impl Glob {
    /// Returns true if the pattern matches the whole text.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut text) = (self.as_str(), text);
        // The pattern after the last star, and the text that the star has not matched yet.
        let mut retry: Option<(&str, &str)> = None;
        loop {
            let (mut rest, mut text_rest) = (pattern.chars(), text.chars());
            match (rest.next(), text_rest.next()) {
                (Some('*'), _) => {
                    retry = Some((rest.as_str(), text));
                    pattern = rest.as_str();
                }
                (None, None) => return true,
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    (pattern, text) = (rest.as_str(), text_rest.as_str());
                }
                (Some(_), _) | (None, Some(_)) => {
                    let Some((after_star, rest_of_text)) = retry else { return false };
                    let mut longer = rest_of_text.chars();
                    if longer.next().is_none() {
                        return false;
                    }
                    retry = Some((after_star, longer.as_str()));
                    (pattern, text) = (after_star, longer.as_str());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_matches_whole_text() {
        for (pattern, text, fits) in [
            ("team-*", "team-a", true),
            ("team-*", "my-team-a", false),
            ("*-ro", "a-ro", true),
            ("*-ro", "a-ro-admin", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "a", true),
            ("?", "", false),
            ("*", "", true),
            ("a|b", "a", false),
            ("a.c", "abc", false),
            ("arn:aws:iam::123456789012:role/team/*", "arn:aws:iam::123456789012:role/admin", false),
        ] {
            assert_eq!(Glob::try_from(pattern).unwrap().matches(text), fits, "{pattern} on {text}");
        }
    }
}
