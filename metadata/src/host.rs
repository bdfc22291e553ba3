//! The check of the `Host` header. It protects against DNS rebinding: a web page can make a browser send requests to a name that
//! resolves to the metadata service. The header never selects a pod.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use http::header::HOST;
use http::{HeaderMap, Version};

use crate::request::{RepeatedHeader, single_header};

/// The hosts that most clients send. They are addresses, so every listener serves them.
const SERVICE_HOSTS: [&str; 3] = ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"];

/// The hosts that a listener serves, besides IP addresses. A port may follow each of them.
#[derive(Debug)]
pub struct HostRule {
    /// True if HTTP/1.1 requests need a `Host`, and no request may have an empty one.
    pub requires_host: bool,
    /// Returns true for a name that the listener serves. The name is in lower case.
    pub serves_name: fn(&str) -> bool,
    /// Error message for a host that the listener does not serve.
    pub error: &'static str,
}

impl HostRule {
    /// A pod's link. It serves the names of EC2's service in a VPC. It also serves requests with an empty `Host` or none, which
    /// clients of the AWS Common Runtime send (aws-c-auth before 0.6.29).
    pub const POD_LINK: Self = Self {
        requires_host: false,
        serves_name: |name| is_instance_data(name.strip_suffix('.').unwrap_or(name)),
        error: "its Host is neither an IP address nor instance-data",
    };

    /// Checks the `Host` headers of a request.
    ///
    /// # Errors
    /// If a request has two of them, has none and the rule requires one, or names a host that the listener does not serve.
    pub fn check(&self, headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
        match single_header(headers, &HOST) {
            Err(RepeatedHeader) => Err("it has more than one Host"),
            Ok(None) if self.requires_host && version >= Version::HTTP_11 => Err("it has no Host"),
            Ok(None) => Ok(()),
            Ok(Some(host)) if host.is_empty() && !self.requires_host => Ok(()),
            Ok(Some(host)) if host.to_str().is_ok_and(|host| self.serves(host)) => Ok(()),
            Ok(Some(_)) => Err(self.error),
        }
    }

    /// Returns true for an address or a name that the listener serves, with or without a port. Returns
    /// false if user information is before the host.
    fn serves(&self, host: &str) -> bool {
        // Fast path: most clients send the service address. The whole host is parsed before its port is removed, because an
        // IPv6 address contains colons.
        if SERVICE_HOSTS.contains(&host) || is_address(host) {
            return true;
        }
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        is_port(port) && (is_address(name) || (self.serves_name)(&name.to_ascii_lowercase()))
    }
}

/// Returns true for the name of EC2's service, alone or in the domain of a VPC. No public web page has a name below `internal`,
/// which is reserved for private networks.
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

/// Returns true for a port from 1 to 65535, and for an empty text.
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
        "user@here",
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

    /// A rule that serves one name and needs a `Host`.
    const STRICT: HostRule =
        HostRule { requires_host: true, serves_name: |name| name == "here", error: "its Host is not here" };

    fn hosts(hosts: &[&'static str]) -> HeaderMap {
        hosts.iter().map(|host| (HOST, HeaderValue::from_static(host))).collect()
    }

    fn accepts(rule: &HostRule, host: &'static str) -> bool {
        rule.check(&hosts(&[host]), Version::HTTP_11).is_ok()
    }

    #[test]
    fn address_in_any_spelling_is_served_by_every_listener() {
        for host in ADDRESSES {
            assert!(accepts(&HostRule::POD_LINK, host) && accepts(&STRICT, host), "{host}");
        }
    }

    #[test]
    fn malformed_host_is_rejected_by_every_listener() {
        for host in MALFORMED {
            assert!(!accepts(&HostRule::POD_LINK, host) && !accepts(&STRICT, host), "{host}");
        }
    }

    #[test]
    fn link_serves_only_the_names_of_instance_data() {
        for host in [
            "instance-data",
            "Instance-Data",
            "instance-data.:8773",
            "instance-data.ec2.internal",
            "instance-data.eu-west-1.compute.internal.:80",
        ] {
            assert!(accepts(&HostRule::POD_LINK, host) && !accepts(&STRICT, host), "{host}");
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
            assert!(!accepts(&HostRule::POD_LINK, host), "{host}");
        }
    }

    #[test]
    fn rule_serves_its_names_in_any_case_with_or_without_a_port() {
        for host in ["here", "Here:20001"] {
            assert!(accepts(&STRICT, host), "{host}");
        }
        for host in ["elsewhere", "here.example:20001", "here."] {
            assert_eq!(STRICT.check(&hosts(&[host]), Version::HTTP_11), Err("its Host is not here"), "{host}");
        }
    }

    #[test]
    fn missing_or_empty_host_is_served_unless_the_rule_requires_one() {
        for (headers, version, strict) in [
            (hosts(&[]), Version::HTTP_11, false),
            (hosts(&[]), Version::HTTP_10, true),
            (hosts(&[""]), Version::HTTP_11, false),
        ] {
            assert_eq!(HostRule::POD_LINK.check(&headers, version), Ok(()));
            assert_eq!(STRICT.check(&headers, version).is_ok(), strict, "{headers:?} {version:?}");
        }
    }

    #[test]
    fn two_hosts_are_rejected_by_every_listener() {
        for pair in [["169.254.169.254", "169.254.169.254"], ["", ""], ["169.254.169.254", ""]] {
            for rule in [HostRule::POD_LINK, STRICT] {
                assert!(rule.check(&hosts(&pair), Version::HTTP_10).is_err(), "{pair:?}");
            }
        }
    }
}
