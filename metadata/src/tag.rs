//! Instance tags: which keys a dialect allows, static tags and the labels that become tags.

use crate::dialect::Dialect;
use crate::names::{InvalidValue, limited, text_type};

text_type!(
    /// The value of a static tag: up to 256 bytes without control characters.
    TagValue,
    |text| limited(text, 0..=256, |c| !c.is_control(), "characters that are not control characters")
);

/// Whether `dialect` allows a tag with this key.
///
/// EC2: 1 to 128 characters of `a-z A-Z 0-9 + - = . , _ : @`, and not just `.`, `..` or `_index`, while tags are in
/// instance metadata (EC2 user guide, "View tags for your EC2 instances using instance metadata").
/// ECS: 1 to 128 characters; not starting with `aliyun` or `acs:`, without `http://` or `https://`
/// (ECS TagResources), and, as one path segment that a shell script can ask for, without `/`, `%` or white space.
///
/// # Errors
/// If it does not; the message says why.
pub fn check_key(dialect: Dialect, key: &str) -> Result<(), InvalidValue> {
    match dialect {
        Dialect::Ec2 => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "+-=.,_:@".contains(c);
            limited(key, 1..=128, allowed, "letters, digits and +-=.,_:@ on ec2").map_err(InvalidValue)?;
            if matches!(key, "." | ".." | "_index") {
                return Err(InvalidValue(format!("must not be {key:?} on ec2")));
            }
        }
        Dialect::Ecs => {
            let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"/%?#\\".contains(c);
            limited(key, 1..=128, allowed, "one path segment on ecs").map_err(InvalidValue)?;
            if key.starts_with("aliyun") || key.starts_with("acs:") || matches!(key, "." | "..") {
                return Err(InvalidValue("must not start with aliyun or acs:, or be a dot segment, on ecs".to_owned()));
            }
        }
    }
    Ok(())
}

/// A tag that a profile sets itself; its key was checked for every dialect of the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticTag {
    /// The key.
    pub key: String,
    /// The value.
    pub value: TagValue,
}

text_type!(
    /// Which labels become tags: a label's key, or the first part of one and a `*` at the end.
    LabelPattern,
    |text| {
        limited(text, 1..=317, |c| c.is_ascii_alphanumeric() || "-_./*".contains(c), "what a label's key may hold, and *")?;
        match text.find('*') {
            Some(at) if at + 1 < text.len() => Err("may have a * at its end only".to_owned()),
            Some(_) | None => Ok(()),
        }
    }
);

impl LabelPattern {
    /// Whether the label with this key is selected.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        match self.as_str().strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == self.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_alphabet_of_tag_keys() {
        for good in ["Name", "a+b-c=d.e,f_g:h@i"] {
            assert!(check_key(Dialect::Ec2, good).is_ok(), "{good}");
            assert!(check_key(Dialect::Ecs, good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", ".", "..", "_index", "ä"] {
            assert!(check_key(Dialect::Ec2, bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "a b", "..", "aliyun-x", "acs:x", "a%2fb"] {
            assert!(check_key(Dialect::Ecs, bad).is_err(), "{bad:?}");
        }
        assert!(check_key(Dialect::Ecs, "ä").is_ok());
    }

    #[test]
    fn a_label_pattern_is_a_key_or_the_first_part_of_one() {
        assert!(LabelPattern::try_from("team").unwrap().matches("team"));
        assert!(!LabelPattern::try_from("team").unwrap().matches("team2"));
        assert!(LabelPattern::try_from("shop.example/*").unwrap().matches("shop.example/team"));
        assert!(LabelPattern::try_from("*").unwrap().matches("anything"));
        assert!(LabelPattern::try_from("a*b").is_err());
    }
}
