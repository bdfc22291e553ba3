//! The addresses of the node's link: one of the node, and one for each service address. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::range::ipv6_of;
use crate::service;

/// The node's IPv4 address on its link. The addresses after it are those of the services.
pub(super) const NODE_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 239, 1);

/// Returns the node's IPv6 address on its link. It has the prefix that the filter of the agent namespace admits.
pub(super) fn node_ipv6() -> Ipv6Addr {
    ipv6_of(NODE_IPV4)
}

/// Returns each service address with its substitute: the address that stands for it on the node's link.
pub(crate) fn substitutes() -> Vec<(IpAddr, IpAddr)> {
    let first = u32::from(NODE_IPV4) + 1;
    let substitute = |(service, number): (IpAddr, u32)| {
        let ipv4 = Ipv4Addr::from(number);
        (service, if service.is_ipv4() { IpAddr::V4(ipv4) } else { IpAddr::V6(ipv6_of(ipv4)) })
    };
    service::addresses().into_iter().zip(first..).map(substitute).collect()
}

/// Returns the service address that an address of the node's link stands for, or `None` if it stands for none.
#[must_use]
pub fn service_of(address: IpAddr) -> Option<IpAddr> {
    let found = substitutes().into_iter().find(|(_, substitute)| *substitute == address);
    found.map(|(service, _)| service)
}

/// Returns all IPv4 addresses of the node's link.
pub(super) fn ipv4() -> impl Iterator<Item = Ipv4Addr> {
    let count = u32::try_from(service::addresses().len()).unwrap_or(u32::MAX);
    let first = u32::from(NODE_IPV4);
    (first..=first.saturating_add(count)).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::range::LinkRange;

    #[test]
    fn each_service_address_has_its_own_substitute_of_the_same_family() {
        let all = substitutes();
        assert_eq!(all.len(), service::addresses().len());
        for (service, substitute) in &all {
            assert_eq!(service.is_ipv4(), substitute.is_ipv4());
            assert_eq!(service_of(*substitute), Some(*service));
            assert!(!service::addresses().contains(substitute));
        }
        let addresses = all.iter().map(|(_, substitute)| *substitute).collect::<BTreeSet<_>>();
        assert_eq!(addresses.len(), all.len());
        for other in [IpAddr::V4(NODE_IPV4), IpAddr::V6(node_ipv6()), service::addresses()[0]] {
            assert_eq!(service_of(other), None);
        }
    }

    #[test]
    fn default_link_range_contains_no_address_of_the_node_link() {
        assert!(!ipv4().any(|address| LinkRange::default().contains(address)));
        assert!(ipv4().all(|address| "169.254.232.0/21".parse::<LinkRange>().unwrap().contains(address)));
    }
}
