//! The service addresses of all dialects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podmeta_metadata::dialect::Dialect;

/// Port of the metadata services.
pub const SERVICE_PORT: u16 = 80;

/// Returns the service addresses of all dialects, without duplicates.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let mut addresses = Dialect::ALL.into_iter().flat_map(|dialect| dialect.protocol().selection().addresses);
    let mut unique = Vec::new();
    for address in addresses.by_ref() {
        if !unique.contains(address) {
            unique.push(*address);
        }
    }
    unique
}

/// Returns the IPv4 service addresses.
#[must_use]
pub fn ipv4() -> Vec<Ipv4Addr> {
    let ipv4 = |address| if let IpAddr::V4(address) = address { Some(address) } else { None };
    addresses().into_iter().filter_map(ipv4).collect()
}

/// Returns the IPv6 service addresses.
#[must_use]
pub fn ipv6() -> Vec<Ipv6Addr> {
    let ipv6 = |address| if let IpAddr::V6(address) = address { Some(address) } else { None };
    addresses().into_iter().filter_map(ipv6).collect()
}
