//! Where in a stream of changes a list or a line stands. Opaque to agents: they give back what they got.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One life of one operator process: versions of different lives cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(String);

/// A place in the changes of one epoch, written `epoch:n`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceVersion {
    /// Whose changes.
    pub epoch: Epoch,
    /// How many there were.
    pub number: u64,
}

/// A text is no version of this API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resourceVersion of this API: list again and watch from what the list says")]
pub struct Malformed(String);

impl FromStr for Epoch {
    type Err = Malformed;

    /// 1 to 64 letters and digits.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let well = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if well { Ok(Self(text.to_owned())) } else { Err(Malformed(text.chars().take(100).collect())) }
    }
}

impl FromStr for ResourceVersion {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.chars().take(100).collect());
        let (epoch, number) = text.split_once(':').ok_or_else(malformed)?;
        let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| plain).ok_or_else(malformed)?;
        Ok(Self { epoch: epoch.parse()?, number })
    }
}

impl TryFrom<String> for Epoch {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl TryFrom<String> for ResourceVersion {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

impl From<ResourceVersion> for String {
    fn from(version: ResourceVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.0, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written_and_nothing_else_is_one() {
        for text in ["a1:0", "9f:18446744073709551615"] {
            assert_eq!(text.parse::<ResourceVersion>().unwrap().to_string(), text);
        }
        for text in ["", ":1", "a1", "a1:", "a1:+1", "a1:-1", "a-1:1", "a1:1:1", "a1:18446744073709551616"] {
            assert!(text.parse::<ResourceVersion>().is_err(), "{text}");
        }
    }
}
