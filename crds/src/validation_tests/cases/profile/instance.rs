//! Cases of `spec.instance`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

pub(super) fn instance() -> Vec<SpecCase> {
    let instance = |text: &str| both(&format!("instance: {{{text}}}"));
    let network = |text: &str| both(&format!("instance: {{network: {{{text}}}}}"));
    let long = |text: &str| both(&format!("instance: {{region: '{}'}}", text.repeat(127)));
    vec![
        accepted(
            "all fields of instance",
            instance(
                "accountId: '123456789012', region: eu-west-1, availabilityZone: a, availabilityZoneId: b, \
                 instanceType: m7i.large, imageId: ami-1, lifeCycle: capacity-block",
            ),
        ),
        accepted(
            "all fields of network",
            network(
                "vpcId: vpc-1, vpcIpv4CidrBlocks: [10.0.0.0/8], vpcIpv6CidrBlocks: ['2001:db8::/56'], subnetId: s, \
                 subnetIpv4CidrBlock: 10.1.0.0/16, subnetIpv6CidrBlocks: ['2001:db8::/64'], securityGroups: [a], \
                 securityGroupIds: [sg-1], publicIpv4: 192.0.2.1, publicHostname: a.example, nameservers: [10.0.0.2], \
                 ntpServers: [ntp.example], mac: '02:00:00:aa:bb:cc', ipv4Gateway: 10.0.0.1, ipv6Gateway: 'fe80::1', \
                 ipv4Prefixes: [10.0.1.64/28], ipv6Prefixes: ['2001:db8:a::/80']",
            ),
        ),
        accepted("vendor data", instance("vendorData: '#cloud-config'")),
        accepted("vendor data of 16,384 bytes", instance(&format!("vendorData: '{}'", "x".repeat(16_384)))),
        rejected_with("empty vendor data", instance("vendorData: ''"), "invalid length", "instance.vendorData"),
        rejected(
            "vendor data of 16,386 bytes in 8,193 characters",
            instance(&format!("vendorData: '{}'", "ä".repeat(8_193))),
            "16384 bytes long",
        ),
        rejected_with("MAC address in upper case", network("mac: '02:00:00:AA:BB:CC'"), "does not match", "lower case"),
        rejected_with("multicast MAC address", network("mac: '01:00:5e:00:00:01'"), "does not match", "unicast"),
        rejected_with("MAC address of 5 bytes", network("mac: '02:00:00:aa:bb'"), "invalid length", "network.mac"),
        rejected("IPv6 address in ipv4Gateway", network("ipv4Gateway: 'fe80::1'"), "must be an IPv4 address"),
        rejected("IPv4 address in ipv6Gateway", network("ipv6Gateway: 10.0.0.1"), "must be an IPv6 address"),
        rejected("address in ipv4Prefixes", network("ipv4Prefixes: [10.0.0.1]"), "must be an IPv4 CIDR block"),
        rejected("IPv4 block in ipv6Prefixes", network("ipv6Prefixes: [10.0.0.0/28]"), "must be an IPv6 CIDR block"),
        rejected_with("account ID as a number", instance("accountId: 123456789012"), "of type string", "invalid type"),
        rejected_with("short account ID", instance("accountId: '12345678901'"), "invalid length", "instance.accountId"),
        rejected_with(
            "account ID with letters",
            instance("accountId: 'abcdefghijkl'"),
            "does not match",
            "digits only",
        ),
        rejected_with("line feed in region", instance("region: \"a\\nb\""), "does not match", "instance.region"),
        rejected_with("empty region", instance("region: ''"), "invalid length", "instance.region"),
        accepted("region of 127 ASCII characters", long("x")),
        rejected("region of 127 characters and 254 bytes", long("ä"), "253 bytes long"),
        rejected_with("unknown lifeCycle", instance("lifeCycle: never"), "unsupported", "unknown variant"),
        rejected(
            "IPv6 block in an IPv4 field",
            network("vpcIpv4CidrBlocks: ['2001:db8::/56']"),
            "must be an IPv4 CIDR block",
        ),
        rejected(
            "IPv4 block in an IPv6 field",
            network("vpcIpv6CidrBlocks: [10.0.0.0/8]"),
            "must be an IPv6 CIDR block",
        ),
        rejected(
            "address without a prefix length",
            network("subnetIpv4CidrBlock: 10.0.0.0"),
            "must be an IPv4 CIDR block",
        ),
        rejected("prefix length above 32", network("subnetIpv4CidrBlock: 10.0.0.0/33"), "must be an IPv4 CIDR block"),
        rejected("IPv6 address in an IPv4 field", network("publicIpv4: '::1'"), "must be an IPv4 address"),
        rejected("host name in nameservers", network("nameservers: [dns.example]"), "must be an IPv4 address"),
        rejected_with(
            "too many security groups",
            network(&format!("securityGroups: [{}]", "a, ".repeat(17))),
            "invalid number",
            "16 entries",
        ),
    ]
}
