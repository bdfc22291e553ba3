//! Instance tags: static tags, and the labels that become tags.

use crate::names::{check_text, text_type};

text_type!(
    /// The value of a static tag: up to 256 bytes, without control characters.
    TagValue,
    |text| check_text(text, 0..=256, |c| !c.is_control(), "printable characters")
);

/// A tag of a profile. Its key is valid in every dialect of the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticTag {
    /// The key.
    pub key: String,
    /// The value.
    pub value: TagValue,
}

text_type!(
    /// A pattern of label keys whose labels become tags: a key, or a prefix with `*` at its end.
    LabelPattern,
    |text| {
        check_text(text, 1..=317, |c| c.is_ascii_alphanumeric() || "-_./*".contains(c), "characters of a label key and *")?;
        match text.find('*') {
            Some(at) if at + 1 < text.len() => Err("must have * at the end only".to_owned()),
            Some(_) | None => Ok(()),
        }
    }
);

impl LabelPattern {
    /// Returns true if the pattern matches a label key.
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
    use crate::dialect::Dialect;

    #[test]
    fn each_dialect_has_its_own_rule_for_tag_keys() {
        for good in ["Name", "a+b-c=d.e,f_g:h@i"] {
            assert!(Dialect::Ec2.protocol().check_tag_key(good).is_ok(), "{good}");
            assert!(Dialect::Ecs.protocol().check_tag_key(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", ".", "..", "_index", "ä"] {
            assert!(Dialect::Ec2.protocol().check_tag_key(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "a b", "..", "aliyun-x", "acs:x", "a%2fb"] {
            assert!(Dialect::Ecs.protocol().check_tag_key(bad).is_err(), "{bad:?}");
        }
        assert!(Dialect::Ecs.protocol().check_tag_key("ä").is_ok());
    }

    #[test]
    fn label_pattern_is_a_key_or_a_prefix() {
        assert!(LabelPattern::try_from("team").unwrap().matches("team"));
        assert!(!LabelPattern::try_from("team").unwrap().matches("team2"));
        assert!(LabelPattern::try_from("shop.example/*").unwrap().matches("shop.example/team"));
        assert!(LabelPattern::try_from("*").unwrap().matches("anything"));
        assert!(LabelPattern::try_from("a*b").is_err());
    }
}
