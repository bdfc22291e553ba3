//! Connections and routes between namespaces.

use std::os::fd::{AsFd as _, AsRawFd as _};

use podmeta_link::netns::Netns;

use crate::kit::{nft, pod, run};

/// Connects two namespaces by a veth pair.
pub(crate) fn connect(near: &Netns, near_name: &str, far: &Netns, far_name: &str) {
    let netns = format!("/proc/{}/fd/{}", std::process::id(), far.as_fd().as_raw_fd());
    run(near, &format!("ip link add {near_name} type veth peer name {far_name} netns {netns}"));
}

/// Sets an interface up with the addresses 10.0.`network`.`host` and fd01:`network`::`host`.
pub(crate) fn set_up(netns: &Netns, interface: &str, network: u8, host: usize) {
    run(netns, &format!("ip addr add 10.0.{network}.{host}/24 dev {interface}"));
    run(netns, &format!("ip addr add fd01:{network}::{host:x}/64 dev {interface} nodad"));
    run(netns, &format!("ip link set {interface} up"));
}

/// Adds the default routes by a host of a network.
pub(crate) fn route_by_default(netns: &Netns, network: u8, host: usize) {
    run(netns, &format!("ip route add default via 10.0.{network}.{host}"));
    run(netns, &format!("ip -6 route add default via fd01:{network}::{host:x}"));
}

/// Creates a container whose connections another namespace routes and masquerades.
pub(crate) fn nested(outer: &Netns, outer_uplink: &str, network: u8) -> Netns {
    let inner = pod();
    connect(outer, "nested0", &inner, "eth0");
    set_up(outer, "nested0", network, 1);
    set_up(&inner, "eth0", network, 2);
    route_by_default(&inner, network, 1);
    run(outer, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let chain = format!("type nat hook postrouting priority 100; oifname {outer_uplink} masquerade;");
    nft(outer, &format!("table inet nested {{ chain out {{ {chain} }}; }}"));
    inner
}
