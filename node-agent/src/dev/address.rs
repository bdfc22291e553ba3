//! Stable addresses and loopback ports of pods.

use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::digest::{SHA256, digest};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::Link;

/// The range of addresses for pods without one: 198.18.0.0/15. RFC 2544 reserves it for benchmarks, so no real pod uses
/// it.
const RANGE_START: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const RANGE_SIZE: u32 = 1 << 17;

/// The range of loopback ports.
const FIRST_PORT: u16 = 20_000;
const PORT_COUNT: u16 = 10_000;

/// Returns the link of a pod with the addresses of its status. A pod without addresses gets one derived from its UID.
pub(super) fn link(uid: &PodUid, addresses: &[IpAddr]) -> Link {
    let mut link = Link::from_addresses(uid, addresses);
    if addresses.is_empty() {
        // Skips the first and last address of the range.
        link.ipv4.push(Ipv4Addr::from_bits(RANGE_START + 1 + hash(uid.as_str()) % (RANGE_SIZE - 2)));
    }
    link
}

/// Returns all ports in the order in which to try them for a pod's dialect. The order is the same in every run.
pub(super) fn ports(pod: &str, dialect: Dialect) -> impl Iterator<Item = u16> {
    let first = hash(&format!("{pod} {dialect}")) % u32::from(PORT_COUNT);
    (0..u32::from(PORT_COUNT))
        .filter_map(move |step| u16::try_from((first + step) % u32::from(PORT_COUNT)).ok())
        .map(|port| FIRST_PORT + port)
}

fn hash(text: &str) -> u32 {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_address_is_stable_and_in_the_range() {
        for uid in ["a", "b", "c"] {
            let uid = PodUid::try_from(uid).unwrap();
            let address = link(&uid, &[]).ipv4[0];
            assert_eq!(address, link(&uid, &[]).ipv4[0]);
            assert!(matches!(address.octets(), [198, 18 | 19, _, _]), "{address}");
        }
    }

    #[test]
    fn addresses_of_the_pod_are_used() {
        let uid = PodUid::try_from("a").unwrap();
        let link = link(&uid, &["2001:db8::1".parse().unwrap(), "10.0.0.9".parse().unwrap()]);
        assert_eq!(link.ipv4, [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(link.ipv6.len(), 1);
    }

    #[test]
    fn ports_are_all_of_the_range_in_a_stable_order() {
        let all = ports("default/web", Dialect::Ec2).collect::<Vec<_>>();
        assert_eq!(all.first(), ports("default/web", Dialect::Ec2).collect::<Vec<_>>().first());
        let distinct = all.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), usize::from(PORT_COUNT));
        assert!(all.iter().all(|port| (20_000..30_000).contains(port)));
    }
}
