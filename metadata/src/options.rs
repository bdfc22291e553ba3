//! The clouds' instance metadata options, and podmeta's limits, each with its range.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::names::InvalidValue;

/// Turns the metadata endpoint on or off (`httpEndpoint`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpEndpoint {
    /// Requests are served.
    Enabled,
    /// Every request is rejected with 403.
    Disabled,
}

/// The session token requirement (`httpTokens`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpTokens {
    /// A request without a token is rejected.
    Required,
    /// A request without a token is served and counted.
    Optional,
}

/// The state of the EC2 endpoint at fd00:ec2::254 (`httpProtocolIpv6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpProtocolIpv6 {
    /// Requests over IPv6 are served.
    Enabled,
    /// Requests over IPv6 are rejected with 403.
    Disabled,
}

/// The presence of tags in the tree (`instanceMetadataTags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceMetadataTags {
    /// `tags/instance/` is served.
    Enabled,
    /// `tags/` is absent.
    Disabled,
}

/// The IP TTL or IPv6 hop limit of responses that carry a token: 1 to 64 (`httpPutResponseHopLimit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct HopLimit(u8);

impl HopLimit {
    /// The default: a token reaches the pod and no host behind it.
    pub const ONE: Self = Self(1);

    /// Returns the number.
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

/// The lifetime of a session token: 1 to 21600 seconds (six hours).
/// Source: EC2 "How Instance Metadata Service Version 2 works"; ECS "Instance metadata".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct TokenTtl(u16);

impl TokenTtl {
    /// The maximum of both clouds: six hours.
    pub const MAX: Self = Self(21_600);

    /// Returns the lifetime in seconds.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }

    /// Parses the value of a header: 1 to 10 decimal digits, from 1 to 21600. Leading zeros are allowed.
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

/// The instance metadata options of one pod. The defaults are the strict values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataOptions {
    /// The endpoint.
    pub http_endpoint: HttpEndpoint,
    /// Session tokens.
    pub http_tokens: HttpTokens,
    /// The hop limit of responses that carry a token.
    pub http_put_response_hop_limit: HopLimit,
    /// EC2 over IPv6.
    pub http_protocol_ipv6: HttpProtocolIpv6,
    /// Tags in the tree.
    pub instance_metadata_tags: InstanceMetadataTags,
    /// The maximum lifetime of a token. A longer requested lifetime is reduced to it.
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

/// The limits of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Sustained requests per second.
    pub requests_per_second: NonZeroU32,
    /// Size of a burst: requests that a pod may send before the rate applies.
    pub burst: NonZeroU32,
    /// Open connections.
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

/// The users whose processes may send requests, by user ID. `denied` takes precedence over `allowed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessUsers {
    /// If it is not empty, only these users may send requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<u32>,
    /// These users may not send requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<u32>,
}

impl ProcessUsers {
    /// Returns true if every process may send requests. The owner of a connection is not needed then.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    /// Returns true if a process of this owner may send requests. An owner that is not found (`None`) is rejected, unless
    /// every process is allowed.
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
    fn ttl_is_decimal_digits_from_1_to_21600() {
        for good in ["1", "21600", "01", "0021600"] {
            assert!(TokenTtl::parse(good.as_bytes()).is_some(), "{good} was rejected");
        }
        for bad in ["", "0", "21601", "-1", "+1", "1.0", " 1", "1 ", "1e3", "0x10", "99999999999", "١"] {
            assert_eq!(TokenTtl::parse(bad.as_bytes()), None, "{bad} was accepted");
        }
    }

    #[test]
    fn hop_limit_is_1_to_64() {
        assert!(HopLimit::try_from(64).is_ok());
        for bad in [0, 65, -1, 257] {
            assert!(HopLimit::try_from(bad).is_err());
        }
    }

    #[test]
    fn unknown_owner_is_rejected_if_any_user_is() {
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
