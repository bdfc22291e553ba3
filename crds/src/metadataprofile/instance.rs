//! What pods are as instances.

use podmeta_metadata::profile::LifeCycle;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// How many address blocks a list may have.
pub(crate) const MAX_BLOCKS: usize = 16;
/// How many security groups a list may have.
pub(crate) const MAX_GROUPS: usize = 16;
/// How many name or time servers a list may have.
pub(crate) const MAX_SERVERS: usize = 8;

/// What a pod is as an instance. Absent fields are taken from the pod and its node, or are absent from the tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceSpec {
    /// The cloud account, as text: 12 digits on AWS, up to 20 on Alibaba Cloud. A role's ARN goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "account_id")]
    pub account_id: Option<String>,
    /// The region. Absent: the node's label `topology.kubernetes.io/region`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub region: Option<String>,
    /// The zone. Absent: the node's label `topology.kubernetes.io/zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub availability_zone: Option<String>,
    /// EC2's id of the zone, which is the same for every account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub availability_zone_id: Option<String>,
    /// The instance type. Absent: the node's label `node.kubernetes.io/instance-type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub instance_type: Option<String>,
    /// The image id. Absent: one made of the first container's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub image_id: Option<String>,
    /// The purchasing option. Absent: the node's capacity type label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "life_cycle")]
    pub life_cycle: Option<LifeCycle>,
    /// Network items that Kubernetes does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
}

/// Network items that Kubernetes does not know. Each absent one is absent from the tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// The VPC's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub vpc_id: Option<String>,
    /// The VPC's IPv4 blocks, the primary one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv4_blocks")]
    pub vpc_ipv4_cidr_blocks: Vec<String>,
    /// The VPC's IPv6 blocks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv6_blocks")]
    pub vpc_ipv6_cidr_blocks: Vec<String>,
    /// The subnet's id (EC2) or the vSwitch's (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub subnet_id: Option<String>,
    /// The subnet's IPv4 block. Absent: the node's pod range.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4_block")]
    pub subnet_ipv4_cidr_block: Option<String>,
    /// The subnet's IPv6 blocks. Absent: the node's pod range.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv6_blocks")]
    pub subnet_ipv6_cidr_blocks: Vec<String>,
    /// Names of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "groups")]
    pub security_groups: Vec<String>,
    /// Ids of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "groups")]
    pub security_group_ids: Vec<String>,
    /// The IPv4 address that the pod is reached at from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4_address")]
    pub public_ipv4: Option<String>,
    /// The name of that address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub public_hostname: Option<String>,
    /// Name servers, as ECS shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "nameservers")]
    pub nameservers: Vec<String>,
    /// Time servers, as ECS shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ntp_servers")]
    pub ntp_servers: Vec<String>,
}

fn account_id(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(12..=20, "^[0-9]*$")
}

fn life_cycle(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["on-demand", "spot", "scheduled", "capacity-block"])
}

fn address(rule: &str, message: &str, longest: usize) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": longest,
        "x-kubernetes-validations": [schema::rule(rule, message, "")],
    })
}

fn ipv4_address(_: &mut SchemaGenerator) -> Schema {
    address("isIP(self) && ip(self).family() == 4", "must be an IPv4 address", 15)
}

fn ipv4_block(_: &mut SchemaGenerator) -> Schema {
    let message = "must be an IPv4 block, such as 10.0.0.0/16";
    address("isCIDR(self) && cidr(self).ip().family() == 4", message, 18)
}

fn ipv4_blocks(generator: &mut SchemaGenerator) -> Schema {
    schema::atomic(ipv4_block(generator), MAX_BLOCKS)
}

fn ipv6_blocks(_: &mut SchemaGenerator) -> Schema {
    let message = "must be an IPv6 block, such as 2001:db8::/56";
    schema::atomic(address("isCIDR(self) && cidr(self).ip().family() == 6", message, 49), MAX_BLOCKS)
}

fn groups(generator: &mut SchemaGenerator) -> Schema {
    schema::atomic(schema::line(generator), MAX_GROUPS)
}

fn nameservers(generator: &mut SchemaGenerator) -> Schema {
    schema::atomic(ipv4_address(generator), MAX_SERVERS)
}

fn ntp_servers(generator: &mut SchemaGenerator) -> Schema {
    schema::atomic(schema::line(generator), MAX_SERVERS)
}
