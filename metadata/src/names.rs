//! Validated text types, such as UIDs, role names and ARNs.

/// Error of an invalid value. The message is the part after the name of the field, such as `must be 1 to 64`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

/// Defines a text type that is cheap to clone and can only be created through a check.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(::std::sync::Arc<str>);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::names::InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text).map_err($crate::names::InvalidValue)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = $crate::names::InvalidValue;

            fn try_from(text: &str) -> Result<Self, Self::Error> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use text_type;

/// Checks the length of a text, in bytes, and its characters. `alphabet` names the allowed characters in the error.
pub(crate) fn check_text(
    text: &str,
    range: std::ops::RangeInclusive<usize>,
    allowed: fn(char) -> bool,
    alphabet: &str,
) -> Result<(), String> {
    if !range.contains(&text.len()) {
        return Err(format!("must be {} to {} bytes long, not {}", range.start(), range.end(), text.len()));
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("must contain {alphabet} only, not {c:?}")),
        None => Ok(()),
    }
}

text_type!(
    /// A pod's `metadata.uid`. No other pod ever has the same UID, so tokens and connections are bound to it.
    PodUid,
    |text| check_text(text, 1..=64, |c| c.is_ascii_alphanumeric() || c == '-', "letters, digits and -")
);

text_type!(
    /// The name of an IAM or RAM role: one path segment of 1 to 64 characters.
    /// Source: IAM `CreateRole`, RoleName; RAM role names are a subset.
    RoleName,
    |text| {
        check_text(text, 1..=64, |c| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c), "letters, digits and +=,.@_-")?;
        if text == "." || text == ".." { Err("must not be a dot segment".to_owned()) } else { Ok(()) }
    }
);

text_type!(
    /// A cloud account ID: 12 digits on AWS, up to 20 on Alibaba Cloud. It may have leading zeros.
    AccountId,
    |text| check_text(text, 12..=20, |c| c.is_ascii_digit(), "digits")
);

text_type!(
    /// One line of text: 1 to 253 bytes without control characters.
    Line,
    |text| check_text(text, 1..=253, |c| !c.is_control(), "printable characters")
);

text_type!(
    /// The ARN of a role, of AWS (`arn:…`) or Alibaba Cloud (`acs:ram::…`): 16 to 2,048 bytes.
    RoleArn,
    |text| {
        check_text(text, 16..=2048, |c| c.is_ascii_graphic(), "visible ASCII characters")?;
        let parts = text.splitn(6, ':').collect::<Vec<_>>();
        match parts.as_slice() {
            ["arn", _, "iam", "", _, role] if role.starts_with("role/") => Ok(()),
            ["acs", "ram", "", _, role] if role.starts_with("role/") => Ok(()),
            _ => Err("must be an ARN of a role, such as arn:aws:iam::123456789012:role/NAME \
                      or acs:ram::1234567890123456:role/NAME"
                .to_owned()),
        }
    }
);

impl RoleArn {
    /// Returns the account ID in the ARN, or `None` if it is not valid.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        let parts = self.as_str().splitn(6, ':').collect::<Vec<_>>();
        let account = match parts.as_slice() {
            ["arn", _, _, _, account, _] | ["acs", _, _, account, _] => *account,
            _ => return None,
        };
        AccountId::try_from(account).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_name_is_one_path_segment() {
        assert!(RoleName::try_from("app-role_1@x").is_ok());
        for bad in ["", "a/b", "..", ".", "a b", "a\n", "ä"] {
            assert!(RoleName::try_from(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn account_of_a_role_arn_is_found_for_both_clouds() {
        for (arn, account) in [
            ("arn:aws:iam::123456789012:role/path/web", "123456789012"),
            ("arn:aws-cn:iam::123456789012:role/web", "123456789012"),
            ("acs:ram::1234567890123456:role/web", "1234567890123456"),
        ] {
            assert_eq!(RoleArn::try_from(arn).unwrap().account().unwrap().as_str(), account);
        }
        assert!(RoleArn::try_from("arn:aws:iam::123456789012:user/web").is_err());
    }

    #[test]
    fn line_with_a_line_break_is_rejected() {
        assert!(Line::try_from("a\r\nb").is_err());
        assert!(Line::try_from("eu-west-1").is_ok());
    }
}
