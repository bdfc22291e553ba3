//! `spec.instance`: values that replace facts of the pod and its node.

use podmeta_metadata::profile::{LifeCycle, MAX_USER_DATA_BYTES};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// Maximum number of address blocks in a list.
pub(crate) const MAX_BLOCKS: usize = 16;
/// Maximum number of security groups in a list.
pub(crate) const MAX_GROUPS: usize = 16;
/// Maximum number of servers in a list.
pub(crate) const MAX_SERVERS: usize = 8;

/// Values that replace facts of the pod and its node. An absent field is taken from the pod and its node. If Kubernetes
/// does not know the value, the item is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceOverridesSpec {
    /// Account ID, a string of 12 to 20 digits. The account in the ARN of the pod's role takes precedence. Default:
    /// `cluster.accountId` of the Helm chart. The signed identity document has it only if a policy allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "account_id")]
    pub account_id: Option<String>,
    /// Region, such as `eu-west-1`. Default: node label `topology.kubernetes.io/region`, then `cluster.region` of the Helm
    /// chart. The signed identity document has it only if a policy allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub region: Option<String>,
    /// Availability zone, such as `eu-west-1a`. Default: node label `topology.kubernetes.io/zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub availability_zone: Option<String>,
    /// ID of the availability zone, such as `euw1-az2` (EC2). Default: node label `topology.k8s.aws/zone-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub availability_zone_id: Option<String>,
    /// Instance type, such as `m7i.large`. Default: node label `node.kubernetes.io/instance-type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub instance_type: Option<String>,
    /// Image ID. Default: an ID derived from the image of the first container.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub image_id: Option<String>,
    /// Purchasing option: `on-demand`, `spot`, `scheduled` or `capacity-block`. Default: the capacity-type label of the
    /// node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "life_cycle")]
    pub life_cycle: Option<LifeCycle>,
    /// Network data that Kubernetes does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// Vendor data (ECS `vendor-data`, which cloud-init reads), at most 16384 bytes. Default: absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "vendor_data")]
    pub vendor_data: Option<String>,
}

/// Network data that Kubernetes does not know. The item of an absent field is absent, unless the field has a default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// MAC address of the interface, a unicast address in lower case. All pods that the profile applies to have it. It is
    /// not signed. Default: that of the primary interface of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "mac")]
    pub mac: Option<String>,
    /// IPv4 address of the gateway (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4_address")]
    pub ipv4_gateway: Option<String>,
    /// IPv6 address of the gateway (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv6_address")]
    pub ipv6_gateway: Option<String>,
    /// IPv4 prefixes that are delegated to the interface. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv4_blocks")]
    pub ipv4_prefixes: Vec<String>,
    /// IPv6 prefixes that are delegated to the interface. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv6_blocks")]
    pub ipv6_prefixes: Vec<String>,
    /// ID of the VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub vpc_id: Option<String>,
    /// IPv4 CIDR blocks of the VPC, the primary one first. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv4_blocks")]
    pub vpc_ipv4_cidr_blocks: Vec<String>,
    /// IPv6 CIDR blocks of the VPC. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv6_blocks")]
    pub vpc_ipv6_cidr_blocks: Vec<String>,
    /// ID of the subnet (EC2) or vSwitch (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub subnet_id: Option<String>,
    /// IPv4 CIDR block of the subnet. Default: the IPv4 pod CIDR of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4_block")]
    pub subnet_ipv4_cidr_block: Option<String>,
    /// IPv6 CIDR blocks of the subnet. At most 16. Default: the IPv6 pod CIDR of the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ipv6_blocks")]
    pub subnet_ipv6_cidr_blocks: Vec<String>,
    /// Names of the security groups. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "groups")]
    pub security_groups: Vec<String>,
    /// IDs of the security groups. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "groups")]
    pub security_group_ids: Vec<String>,
    /// Public IPv4 address of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4_address")]
    pub public_ipv4: Option<String>,
    /// Public host name of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub public_hostname: Option<String>,
    /// IPv4 addresses of the name servers (ECS). At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "nameservers")]
    pub nameservers: Vec<String>,
    /// Host names or addresses of the NTP servers (ECS). At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ntp_servers")]
    pub ntp_servers: Vec<String>,
}

fn account_id(_: &mut SchemaGenerator) -> Schema {
    schema::account_id()
}

fn life_cycle(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["on-demand", "spot", "scheduled", "capacity-block"])
}

fn address(rule: &str, message: &str, max_length: usize) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": max_length,
        "x-kubernetes-validations": [schema::rule(rule, message, "")],
    })
}

fn vendor_data(_: &mut SchemaGenerator) -> Schema {
    schema::any_text(1..=MAX_USER_DATA_BYTES)
}

fn mac(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(17..=17, "^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")
}

fn ipv6_address(_: &mut SchemaGenerator) -> Schema {
    address("isIP(self) && ip(self).family() == 6", "must be an IPv6 address", 45)
}

fn ipv4_address(_: &mut SchemaGenerator) -> Schema {
    address("isIP(self) && ip(self).family() == 4", "must be an IPv4 address", 15)
}

fn ipv4_block(_: &mut SchemaGenerator) -> Schema {
    let message = "must be an IPv4 CIDR block, such as 10.0.0.0/16";
    address("isCIDR(self) && cidr(self).ip().family() == 4", message, 18)
}

fn ipv4_blocks(generator: &mut SchemaGenerator) -> Schema {
    schema::atomic(ipv4_block(generator), MAX_BLOCKS)
}

fn ipv6_blocks(_: &mut SchemaGenerator) -> Schema {
    let message = "must be an IPv6 CIDR block, such as 2001:db8::/56";
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
