//! What only a cluster knows of a pod, made stable: its address and its loopback ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::Link;

/// Where pods without an address get one: 198.18.0.0/15, which RFC 2544 keeps for benchmarks, so no real pod has it.
const RANGE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const RANGE_SIZE: u32 = 1 << 17;

/// Ports are looked for from here on, up to 10,000 further.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// The link of a pod: the addresses of its status, else one made of its UID.
#[must_use]
pub fn link(uid: &PodUid, addresses: &[IpAddr]) -> Link {
    let mut link = Link::from_addresses(uid, addresses);
    if addresses.is_empty() {
        // Neither the first nor the last address of the range.
        link.ipv4.push(Ipv4Addr::from_bits(RANGE + 1 + number(uid.as_str()) % (RANGE_SIZE - 2)));
    }
    link
}

/// The ports to try for a pod's dialect, the first one first: the same in every run.
pub fn ports(pod: &str, dialect: Dialect) -> impl Iterator<Item = u16> {
    let first = number(&format!("{pod} {dialect}")) % u32::from(PORTS);
    (0..u32::from(PORTS))
        .filter_map(move |step| u16::try_from((first + step) % u32::from(PORTS)).ok())
        .map(|port| FIRST_PORT + port)
}

fn number(text: &str) -> u32 {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Which address each pod has in each dialect; kept over reloads.
pub type Addresses = BTreeMap<(String, Dialect), SocketAddr>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_stable_and_from_the_documented_range() {
        for uid in ["a", "b", "c"] {
            let uid = PodUid::try_from(uid).unwrap();
            let address = link(&uid, &[]).ipv4[0];
            assert_eq!(address, link(&uid, &[]).ipv4[0]);
            assert!(matches!(address.octets(), [198, 18 | 19, _, _]), "{address}");
        }
    }

    #[test]
    fn a_pod_s_own_addresses_are_kept() {
        let uid = PodUid::try_from("a").unwrap();
        let link = link(&uid, &["2001:db8::1".parse().unwrap(), "10.0.0.9".parse().unwrap()]);
        assert_eq!(link.ipv4, [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(link.ipv6.len(), 1);
    }

    #[test]
    fn every_port_of_the_range_is_tried_once_from_the_same_one_on() {
        let all = ports("default/web", Dialect::Ec2).collect::<Vec<_>>();
        assert_eq!(all.first(), ports("default/web", Dialect::Ec2).collect::<Vec<_>>().first());
        let distinct = all.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), usize::from(PORTS));
        assert!(all.iter().all(|port| (20_000..30_000).contains(port)));
    }
}
