//! `spec.metadataOptions` and `spec.limits`.

use podmeta_metadata::options::{
    HttpEndpoint, HttpProtocolIpv6, HttpTokens, InstanceMetadataTags, Limits, MetadataOptions,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::api::schema;

/// Maximum of `limits.requestsPerSecond`.
pub(crate) const MAX_REQUESTS_PER_SECOND: i64 = 100_000;
/// Maximum of `limits.burst`.
pub(crate) const MAX_BURST: i64 = 200_000;
/// Maximum of `limits.connections`.
pub(crate) const MAX_CONNECTIONS: i64 = 16_384;

/// Instance metadata options. Names and ranges of values are those of the clouds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataOptionsSpec {
    /// State of the metadata service. `disabled`: 403 on every path. Default: `enabled`.
    #[schemars(schema_with = "switch")]
    pub http_endpoint: HttpEndpoint,
    /// Session token requirement. `required`: a request without a token gets 401 (EC2) or 403 (ECS). `optional`: such a request
    /// is served, and its pod is counted in `status.tokenlessPods`. Default: `required`.
    #[schemars(schema_with = "http_tokens")]
    pub http_tokens: HttpTokens,
    /// IP hop limit of responses that carry a session token, 1 to 64. With 1, they reach the pod. With 2, they also reach a
    /// nested container or a host behind the pod. Default: 1.
    #[schemars(schema_with = "hop_limit")]
    pub http_put_response_hop_limit: i64,
    /// IPv6 endpoint of EC2, `fd00:ec2::254`. `enabled` requires `ec2` in `dialects`. Default: `disabled`.
    #[schemars(schema_with = "switch")]
    pub http_protocol_ipv6: HttpProtocolIpv6,
    /// Instance tags in the tree. `enabled`: the tags of `spec.tags` are served. Default: `disabled`.
    #[schemars(schema_with = "switch")]
    pub instance_metadata_tags: InstanceMetadataTags,
    /// Maximum lifetime of a session token, 1 to 21600 seconds. A longer requested lifetime is reduced to it. Default:
    /// 21600.
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

/// Limits on the requests and connections of each pod. They protect the other pods of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule("self.burst >= self.requestsPerSecond", messages::BURST_BELOW_RATE, ".burst"),
]))]
pub struct LimitsSpec {
    /// Sustained request rate per pod, 1 to 100000 requests per second. Above it, a request waits up to 100 ms. If the
    /// rate is still exceeded, it gets 429. A value over `maxRequestsPerSecond` of the policies, 2000 by default, is
    /// reduced to that maximum. Default: 500.
    #[schemars(schema_with = "rate")]
    pub requests_per_second: i64,
    /// Size of a burst, `requestsPerSecond` to 200000: the number of requests that a pod may send before the rate applies. A
    /// value over twice `maxRequestsPerSecond` of the policies is reduced to that number. Default: 1000.
    #[schemars(schema_with = "burst")]
    pub burst: i64,
    /// Open connections per pod, 1 to 16384. Further connections are closed. A value over `maxConnections` of the policies,
    /// 1024 by default, is reduced to it. Default: 256.
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
    schema::integer(1..=MAX_REQUESTS_PER_SECOND)
}

fn burst(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_BURST)
}

fn connections(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_CONNECTIONS)
}
