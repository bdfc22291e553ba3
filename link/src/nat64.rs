//! Translators of IPv6 to IPv4 addresses on the node (NAT64): the addresses that they translate to service addresses. A packet to
//! such an address leaves the translator as a packet of the node.

pub mod forms;
