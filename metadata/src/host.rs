//! The check of the `Host` header. It never selects a pod. It stops web pages: a page can make a browser send requests under
//! a name that resolves to the metadata service (DNS rebinding).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use http::header::HOST;
use http::{HeaderMap, Version};

/// The hosts that a listener serves, besides IP addresses. A port may follow each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// A pod's link, or an address that is not a loopback address. No `Host` and an empty one are served too: clients of
    /// the AWS Common Runtime send such heads (aws-c-auth before 0.6.29). So are the names of EC2's service in a VPC.
    PodLink,
    /// A loopback port of the dev server, which every browser of the machine can reach. It serves `localhost` besides
    /// addresses. HTTP/1.1 requests need a `Host`.
    Loopback,
}

impl HostRule {
    /// Checks the `Host` headers of a request.
    ///
    /// # Errors
    /// If there are two, or if the listener does not serve the host. The error names the malformed part.
    pub fn check(self, headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next(), self) {
            (Some(_), Some(_), _) => Err("it has more than one Host"),
            (None, _, Self::PodLink) => Ok(()),
            (None, _, Self::Loopback) if version < Version::HTTP_11 => Ok(()),
            (None, _, Self::Loopback) => Err("it has no Host"),
            (Some(host), None, _) if host.to_str().is_ok_and(|host| self.serves(host)) => Ok(()),
            (Some(host), None, Self::PodLink) if host.is_empty() => Ok(()),
            (Some(_), None, Self::PodLink) => Err("its Host is neither an IP address nor instance-data"),
            (Some(_), None, Self::Loopback) => Err("its Host is neither an IP address nor localhost"),
        }
    }

    /// Returns true for an address or a name that the listener serves, with or without a port. User information before
    /// the host makes it another name.
    fn serves(self, host: &str) -> bool {
        // An IPv6 address has colons too.
        if is_address(host) {
            return true;
        }
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        is_port(port) && (is_address(name) || self.serves_name(name))
    }

    fn serves_name(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::PodLink => is_instance_data(name.strip_suffix('.').unwrap_or(&name)),
            Self::Loopback => name == "localhost",
        }
    }
}

/// Returns true for the name of EC2's service, alone or in the domain of a VPC. No web page has a name below `internal`.
/// Source: the resolver of a VPC; cloud-init's DataSourceEc2 requests `http://instance-data.:8773`.
fn is_instance_data(name: &str) -> bool {
    let Some(domain) = name.strip_prefix("instance-data") else { return false };
    let is_regional = || {
        let region = domain.strip_prefix('.').and_then(|domain| domain.strip_suffix(".compute.internal"));
        region.is_some_and(|region| {
            !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    matches!(domain, "" | ".ec2.internal") || is_regional()
}

/// Returns true for an IPv4 address, and for an IPv6 address in any spelling: with or without brackets and zone.
fn is_address(text: &str) -> bool {
    if text.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let literal = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']'),
        None => Some(text),
    };
    literal.is_some_and(|literal| {
        let (address, zone) = literal.split_once('%').unwrap_or((literal, "0"));
        let is_zone_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
        address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_zone_byte)
    })
}

/// Returns true for a port from 1 to 65535, and for none.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<NonZeroU16>().is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ADDRESSES: [&str; 17] = [
        "169.254.169.254",
        "169.254.169.254:80",
        "169.254.169.254:",
        "100.100.100.200",
        "100.100.100.200:80",
        "127.0.0.1:20001",
        "10.0.0.1",
        "[fd00:ec2::254]",
        "[fd00:ec2::254]:80",
        "[FD00:EC2::254]",
        "fd00:ec2::254",
        "fd00:0ec2:0:0:0:0:0:254",
        "fd00:0ec2:0:0:0:0:0:254:80",
        "[fe80::1%25eth0]:80",
        "fe80::1%eth0",
        "[::ffff:169.254.169.254]",
        "::1",
    ];

    const MALFORMED: [&str; 19] = [
        "a/b",
        "user@169.254.169.254",
        "user:secret@169.254.169.254:80",
        "@169.254.169.254",
        "user@instance-data",
        "user@localhost",
        "169.254.169.254:0",
        "169.254.169.254:65536",
        "169.254.169.254:99999999999",
        "169.254.169.254:+80",
        "169.254.169.254:http",
        "169.254.169.254:80:80",
        "[fd00:ec2::254",
        "fd00:ec2::254]",
        "[fd00:ec2::254]80",
        "[fd00:ec2::254]:70000",
        "[fd00:ec2::254%]",
        "[169.254.169.254]",
        ":80",
    ];

    fn hosts(hosts: &[&'static str]) -> HeaderMap {
        hosts.iter().map(|host| (HOST, HeaderValue::from_static(host))).collect()
    }

    fn accepts(rule: HostRule, host: &'static str) -> bool {
        rule.check(&hosts(&[host]), Version::HTTP_11).is_ok()
    }

    #[test]
    fn address_in_any_spelling_is_served_by_every_listener() {
        for host in ADDRESSES {
            assert!(accepts(HostRule::PodLink, host) && accepts(HostRule::Loopback, host), "{host}");
        }
    }

    #[test]
    fn malformed_host_is_rejected_by_every_listener() {
        for host in MALFORMED {
            assert!(!accepts(HostRule::PodLink, host) && !accepts(HostRule::Loopback, host), "{host}");
        }
    }

    #[test]
    fn link_serves_no_name_but_instance_data() {
        for host in [
            "instance-data",
            "Instance-Data",
            "instance-data.:8773",
            "instance-data.ec2.internal",
            "instance-data.eu-west-1.compute.internal.:80",
        ] {
            assert!(accepts(HostRule::PodLink, host) && !accepts(HostRule::Loopback, host), "{host}");
        }
        for host in [
            "localhost",
            "rebind.example",
            "instance-data.example",
            "instance-data.a.example.compute.internal",
            "instance-data.compute.internal",
            "instance-data..",
            "instance-database",
            "169.254.169.254.example",
        ] {
            assert!(!accepts(HostRule::PodLink, host), "{host}");
        }
    }

    #[test]
    fn loopback_serves_no_name_but_localhost() {
        for host in ["localhost", "LocalHost:20001"] {
            assert!(accepts(HostRule::Loopback, host), "{host}");
        }
        for host in ["rebind.example", "localhost.example:20001", "127.0.0.1.example", "localhost."] {
            assert!(!accepts(HostRule::Loopback, host), "{host}");
        }
    }

    #[test]
    fn missing_or_empty_host_is_served_on_a_link_only() {
        for (headers, version, loopback) in [
            (hosts(&[]), Version::HTTP_11, false),
            (hosts(&[]), Version::HTTP_10, true),
            (hosts(&[""]), Version::HTTP_11, false),
        ] {
            assert_eq!(HostRule::PodLink.check(&headers, version), Ok(()));
            assert_eq!(HostRule::Loopback.check(&headers, version).is_ok(), loopback, "{headers:?} {version:?}");
        }
    }

    #[test]
    fn two_hosts_are_rejected_by_every_listener() {
        for pair in [["169.254.169.254", "169.254.169.254"], ["", ""], ["169.254.169.254", ""]] {
            for rule in [HostRule::PodLink, HostRule::Loopback] {
                assert!(rule.check(&hosts(&pair), Version::HTTP_10).is_err(), "{pair:?}");
            }
        }
    }
}
