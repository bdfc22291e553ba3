//! How a pod may ask: the clouds' own instance metadata options and podmeta's limits, each with its range.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::names::InvalidValue;

/// Whether the metadata endpoint answers at all (`httpEndpoint`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpEndpoint {
    /// It answers.
    Enabled,
    /// Every request is refused with 403.
    Disabled,
}

/// Whether a request must carry a session token (`httpTokens`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpTokens {
    /// A request without a token is refused.
    Required,
    /// A request without a token is served, and counted.
    Optional,
}

/// Whether the EC2 endpoint answers at fd00:ec2::254 too (`httpProtocolIpv6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpProtocolIpv6 {
    /// It does.
    Enabled,
    /// Requests that came over IPv6 are refused with 403.
    Disabled,
}

/// Whether tags are in the tree (`instanceMetadataTags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceMetadataTags {
    /// `tags/instance/` is listed and served.
    Enabled,
    /// `tags/` is absent.
    Disabled,
}

/// IP TTL or IPv6 hop limit of the packets that carry a token: 1 to 64 (`httpPutResponseHopLimit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct HopLimit(u8);

impl HopLimit {
    /// The default: the pod itself gets its token, nothing behind it does.
    pub const ONE: Self = Self(1);

    /// The number, as socket options take it.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for HopLimit {
    type Error = InvalidValue;

    fn try_from(number: i64) -> Result<Self, InvalidValue> {
        match u8::try_from(number) {
            Ok(hops @ 1..=64) => Ok(Self(hops)),
            _ => Err(InvalidValue(format!("must be 1 to 64, not {number}"))),
        }
    }
}

impl From<HopLimit> for i64 {
    fn from(limit: HopLimit) -> Self {
        Self::from(limit.0)
    }
}

/// Lifetime of a session token in whole seconds: 1 to 21600, which is six hours.
/// Source: EC2 "How Instance Metadata Service Version 2 works"; ECS "Instance metadata".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct TokenTtl(u16);

impl TokenTtl {
    /// The longest life that either cloud gives a token.
    pub const MAX: Self = Self(21_600);

    /// The lifetime in seconds.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }

    /// Reads a header's value: decimal digits and nothing else, 1 to 21600. A leading zero is a digit.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse::<i64>().ok().and_then(|seconds| Self::try_from(seconds).ok())
    }
}

impl TryFrom<i64> for TokenTtl {
    type Error = InvalidValue;

    fn try_from(number: i64) -> Result<Self, InvalidValue> {
        match u16::try_from(number) {
            Ok(seconds @ 1..=21_600) => Ok(Self(seconds)),
            _ => Err(InvalidValue(format!("must be 1 to 21600 seconds, not {number}"))),
        }
    }
}

impl From<TokenTtl> for i64 {
    fn from(ttl: TokenTtl) -> Self {
        Self::from(ttl.0)
    }
}

/// The instance metadata options of one pod. The default is the secure one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataOptions {
    /// Whether anything is answered.
    pub http_endpoint: HttpEndpoint,
    /// Whether a token is needed.
    pub http_tokens: HttpTokens,
    /// How far a token travels.
    pub http_put_response_hop_limit: HopLimit,
    /// Whether EC2 is answered over IPv6.
    pub http_protocol_ipv6: HttpProtocolIpv6,
    /// Whether tags are shown.
    pub instance_metadata_tags: InstanceMetadataTags,
    /// The longest life of a token; a longer one that is asked for is cut to this.
    pub max_token_ttl_seconds: TokenTtl,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            http_endpoint: HttpEndpoint::Enabled,
            http_tokens: HttpTokens::Required,
            http_put_response_hop_limit: HopLimit::ONE,
            http_protocol_ipv6: HttpProtocolIpv6::Disabled,
            instance_metadata_tags: InstanceMetadataTags::Disabled,
            max_token_ttl_seconds: TokenTtl::MAX,
        }
    }
}

/// How much one pod may ask, so that it cannot starve its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests a second, sustained.
    pub requests_per_second: NonZeroU32,
    /// Requests that may come at once before the rate holds.
    pub burst: NonZeroU32,
    /// Connections open at once.
    pub connections: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        const fn nonzero(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self { requests_per_second: nonzero(500), burst: nonzero(1_000), connections: nonzero(256) }
    }
}

/// Which process owners inside the pod may ask, by numeric user id. A denied one is refused even if it is allowed too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessUsers {
    /// If there is any, nobody else may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<u32>,
    /// These may not ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<u32>,
}

impl ProcessUsers {
    /// Whether every process may ask, so that nobody needs to find out whose a connection is.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    /// Whether a process of `owner` may ask; an owner that could not be found may not, unless everybody may.
    #[must_use]
    pub fn admits(&self, owner: Option<u32>) -> bool {
        match owner {
            _ if self.is_unrestricted() => true,
            Some(user) => !self.denied.contains(&user) && (self.allowed.is_empty() || self.allowed.contains(&user)),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_decimal_digits_from_1_to_21600() {
        for good in ["1", "21600", "01", "0021600"] {
            assert!(TokenTtl::parse(good.as_bytes()).is_some(), "{good} was refused");
        }
        for bad in ["", "0", "21601", "-1", "+1", "1.0", " 1", "1 ", "1e3", "0x10", "99999999999", "١"] {
            assert_eq!(TokenTtl::parse(bad.as_bytes()), None, "{bad} was taken");
        }
    }

    #[test]
    fn a_hop_limit_is_1_to_64() {
        assert!(HopLimit::try_from(64).is_ok());
        for bad in [0, 65, -1, 257] {
            assert!(HopLimit::try_from(bad).is_err());
        }
    }

    #[test]
    fn an_owner_that_is_not_known_is_refused_when_anybody_is() {
        let users = ProcessUsers { allowed: vec![], denied: vec![33] };
        assert!(users.admits(Some(1000)));
        assert!(!users.admits(Some(33)));
        assert!(!users.admits(None));
        assert!(ProcessUsers::default().admits(None));
        let both = ProcessUsers { allowed: vec![33], denied: vec![33] };
        assert!(!both.admits(Some(33)));
        assert!(!ProcessUsers { allowed: vec![1], denied: vec![] }.admits(Some(2)));
    }
}
