//! Converts `spec.instance`.

use std::str::FromStr;

use podmeta_metadata::names::Line;
use podmeta_metadata::profile::{InstanceSpec, Network};
use podmeta_metadata::workload::MacAddress;

use super::convert_text;
use crate::convert::field::FieldErrors;
use crate::metadataprofile::{InstanceOverridesSpec, MAX_BLOCKS, MAX_GROUPS, MAX_SERVERS, NetworkSpec};

const FIELD: &str = "spec.instance";

/// Converts `spec.instance`.
pub(super) fn convert(spec: Option<&InstanceOverridesSpec>, errors: &mut FieldErrors) -> InstanceSpec {
    let Some(spec) = spec else { return InstanceSpec::default() };
    let mut line = |name: &str, value: &Option<String>| -> Option<Line> {
        convert_text(format_args!("{FIELD}.{name}"), value.as_deref(), errors)
    };
    let region = line("region", &spec.region);
    let availability_zone = line("availabilityZone", &spec.availability_zone);
    let availability_zone_id = line("availabilityZoneId", &spec.availability_zone_id);
    let instance_type = line("instanceType", &spec.instance_type);
    let image_id = line("imageId", &spec.image_id);
    InstanceSpec {
        account_id: convert_text(format_args!("{FIELD}.accountId"), spec.account_id.as_deref(), errors),
        region,
        availability_zone,
        availability_zone_id,
        instance_type,
        image_id,
        life_cycle: spec.life_cycle,
        network: spec.network.as_ref().map(|spec| network(spec, errors)).unwrap_or_default(),
        vendor_data: convert_text(format_args!("{FIELD}.vendorData"), spec.vendor_data.as_deref(), errors),
    }
}

fn network(spec: &NetworkSpec, errors: &mut FieldErrors) -> Network {
    let field = |name: &str| format!("{FIELD}.network.{name}");
    Network {
        mac: errors.convert_optional(field("mac"), spec.mac.as_ref(), |text| text.parse::<MacAddress>()),
        ipv4_gateway: errors
            .convert_optional(field("ipv4Gateway"), spec.ipv4_gateway.as_ref(), |text| parse(text, "an IPv4 address")),
        ipv6_gateway: errors
            .convert_optional(field("ipv6Gateway"), spec.ipv6_gateway.as_ref(), |text| parse(text, "an IPv6 address")),
        ipv4_prefixes: blocks(&field("ipv4Prefixes"), &spec.ipv4_prefixes, IPV4_BLOCK, errors),
        ipv6_prefixes: blocks(&field("ipv6Prefixes"), &spec.ipv6_prefixes, IPV6_BLOCK, errors),
        vpc_id: convert_text(field("vpcId"), spec.vpc_id.as_deref(), errors),
        vpc_ipv4_cidr_blocks: blocks(&field("vpcIpv4CidrBlocks"), &spec.vpc_ipv4_cidr_blocks, IPV4_BLOCK, errors),
        vpc_ipv6_cidr_blocks: blocks(&field("vpcIpv6CidrBlocks"), &spec.vpc_ipv6_cidr_blocks, IPV6_BLOCK, errors),
        subnet_id: convert_text(field("subnetId"), spec.subnet_id.as_deref(), errors),
        subnet_ipv4_cidr_block: errors.convert_optional(
            field("subnetIpv4CidrBlock"),
            spec.subnet_ipv4_cidr_block.as_ref(),
            |text| parse(text, IPV4_BLOCK),
        ),
        subnet_ipv6_cidr_blocks: blocks(
            &field("subnetIpv6CidrBlocks"),
            &spec.subnet_ipv6_cidr_blocks,
            IPV6_BLOCK,
            errors,
        ),
        security_groups: lines(&field("securityGroups"), MAX_GROUPS, &spec.security_groups, errors),
        security_group_ids: lines(&field("securityGroupIds"), MAX_GROUPS, &spec.security_group_ids, errors),
        public_ipv4: errors
            .convert_optional(field("publicIpv4"), spec.public_ipv4.as_ref(), |text| parse(text, "an IPv4 address")),
        public_hostname: convert_text(field("publicHostname"), spec.public_hostname.as_deref(), errors),
        nameservers: errors
            .convert_list(&field("nameservers"), MAX_SERVERS, &spec.nameservers, |text| parse(text, "an IPv4 address")),
        ntp_servers: lines(&field("ntpServers"), MAX_SERVERS, &spec.ntp_servers, errors),
    }
}

const IPV4_BLOCK: &str = "an IPv4 CIDR block, such as 10.0.0.0/16";
const IPV6_BLOCK: &str = "an IPv6 CIDR block, such as 2001:db8::/56";

fn blocks<T: FromStr>(field: &str, list: &[String], expected: &str, errors: &mut FieldErrors) -> Vec<T> {
    errors.convert_list(field, MAX_BLOCKS, list, |text| parse(text, expected))
}

fn lines(field: &str, max_length: usize, list: &[String], errors: &mut FieldErrors) -> Vec<Line> {
    errors.convert_list(field, max_length, list, |text| Line::try_from(text.as_str()))
}

fn parse<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("must be {expected}, not {text:?}"))
}
