//! Resource versions. They are opaque to agents.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Identifies one operator process. Versions of different processes cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(String);

/// A position in the changes of one epoch, written `epoch:number`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceVersion {
    /// The epoch.
    pub epoch: Epoch,
    /// The number of changes before the position.
    pub number: u64,
}

/// Error for a text that is not a valid resource version or epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid resourceVersion {0:?}: list again and watch from the version of the list")]
pub struct InvalidResourceVersion(String);

impl FromStr for Epoch {
    type Err = InvalidResourceVersion;

    /// Accepts 1 to 64 ASCII letters and digits.
    fn from_str(text: &str) -> Result<Self, InvalidResourceVersion> {
        let is_valid = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidResourceVersion(text.chars().take(100).collect())) }
    }
}

impl FromStr for ResourceVersion {
    type Err = InvalidResourceVersion;

    fn from_str(text: &str) -> Result<Self, InvalidResourceVersion> {
        let invalid = || InvalidResourceVersion(text.chars().take(100).collect());
        let (epoch, number) = text.split_once(':').ok_or_else(invalid)?;
        let is_decimal = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_decimal).ok_or_else(invalid)?;
        Ok(Self { epoch: epoch.parse()?, number })
    }
}

impl TryFrom<String> for Epoch {
    type Error = InvalidResourceVersion;

    fn try_from(text: String) -> Result<Self, InvalidResourceVersion> {
        text.parse()
    }
}

impl TryFrom<String> for ResourceVersion {
    type Error = InvalidResourceVersion;

    fn try_from(text: String) -> Result<Self, InvalidResourceVersion> {
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
    fn valid_versions_round_trip_and_others_are_rejected() {
        for text in ["a1:0", "9f:18446744073709551615"] {
            assert_eq!(text.parse::<ResourceVersion>().unwrap().to_string(), text);
        }
        for text in ["", ":1", "a1", "a1:", "a1:+1", "a1:-1", "a-1:1", "a1:1:1", "a1:18446744073709551616"] {
            assert!(text.parse::<ResourceVersion>().is_err(), "{text}");
        }
    }
}
