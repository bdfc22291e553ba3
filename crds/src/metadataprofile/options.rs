//! How pods may ask: metadata options and limits.

use podmeta_metadata::options::{
    HttpEndpoint, HttpProtocolIpv6, HttpTokens, InstanceMetadataTags, Limits, MetadataOptions,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::schema;

/// The highest sustained rate.
pub(crate) const MAX_RATE: i64 = 100_000;
/// The highest burst.
pub(crate) const MAX_BURST: i64 = 200_000;
/// The most connections.
pub(crate) const MAX_CONNECTIONS: i64 = 16_384;

/// The clouds' own instance metadata options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataOptionsSpec {
    /// Whether the metadata service answers at all.
    #[schemars(schema_with = "switch")]
    pub http_endpoint: HttpEndpoint,
    /// Whether every request needs a session token (`required`). `optional` also takes requests without one, and
    /// counts them, so that one can see who is left before tokens are required.
    #[schemars(schema_with = "http_tokens")]
    pub http_tokens: HttpTokens,
    /// How far a token travels, as the IP hop limit of the reply that carries it: 1 reaches the pod itself, 2 a
    /// container nested in it.
    #[schemars(schema_with = "hop_limit")]
    pub http_put_response_hop_limit: i64,
    /// Whether EC2 is answered at `fd00:ec2::254` too.
    #[schemars(schema_with = "switch")]
    pub http_protocol_ipv6: HttpProtocolIpv6,
    /// Whether tags are in the tree.
    #[schemars(schema_with = "switch")]
    pub instance_metadata_tags: InstanceMetadataTags,
    /// The longest life of a session token, in seconds. A longer one that is asked for is cut to this.
    #[schemars(schema_with = "ttl")]
    pub max_token_ttl_seconds: i64,
}

impl Default for MetadataOptionsSpec {
    fn default() -> Self {
        let options = MetadataOptions::default();
        Self {
            http_endpoint: options.http_endpoint,
            http_tokens: options.http_tokens,
            http_put_response_hop_limit: options.http_put_response_hop_limit.into(),
            http_protocol_ipv6: options.http_protocol_ipv6,
            instance_metadata_tags: options.instance_metadata_tags,
            max_token_ttl_seconds: options.max_token_ttl_seconds.into(),
        }
    }
}

/// How much one pod may ask, so that it cannot starve its neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule("self.burst >= self.requestsPerSecond", messages::BURST, ".burst"),
]))]
pub struct LimitsSpec {
    /// Requests a second, sustained. Over it a request waits up to 100 ms and is then answered with 429.
    #[schemars(schema_with = "rate")]
    pub requests_per_second: i64,
    /// Requests that may come at once before the rate holds.
    #[schemars(schema_with = "burst")]
    pub burst: i64,
    /// Connections open at once. One more is closed.
    #[schemars(schema_with = "connections")]
    pub connections: i64,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            requests_per_second: limits.requests_per_second.get().into(),
            burst: limits.burst.get().into(),
            connections: limits.connections.get().into(),
        }
    }
}

fn switch(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["enabled", "disabled"])
}

fn http_tokens(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["required", "optional"])
}

fn hop_limit(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=64)
}

fn ttl(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=21_600)
}

fn rate(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_RATE)
}

fn burst(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_BURST)
}

fn connections(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_CONNECTIONS)
}
