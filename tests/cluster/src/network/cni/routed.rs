//! The commands that attach a pod, as Calico does: the pod has an IPv4 /32 and an IPv6 /128. The node's end has no address
//! but a link-local one. The pod's gateways are 169.254.1.1, for which the node's end answers by proxy ARP, and fe80::1. The node
//! has a route to each pod. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::CNI_VERSION;
use crate::network::bypass::BypassConfig;

/// Start of the names of the node's ends of links, which the plugin `ptp` uses too.
pub const HOST_DEVICE_PREFIX: &str = "veth";
/// Maximum length of a device's name.
const MAX_DEVICE_NAME: usize = 15;
/// MAC address of the node's end of each link, which is that of Calico.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The gateways of a pod.
const GATEWAYS: (&str, &str) = ("169.254.1.1", "fe80::1");

/// The link of a pod to its node.
pub(super) struct PodAttachment {
    host_device: String,
    interface: String,
    addresses: (Ipv4Addr, Ipv6Addr),
}

impl PodAttachment {
    /// Checks the names, because they become parts of shell commands.
    pub(super) fn new(container: &str, interface: &str, addresses: (Ipv4Addr, Ipv6Addr)) -> Result<Self> {
        let is_valid = interface.len() <= MAX_DEVICE_NAME && is_alphanumeric(interface);
        ensure!(is_valid, "{interface:?} is not a valid name of an interface");
        Ok(Self { host_device: host_device(container)?, interface: interface.to_owned(), addresses })
    }

    pub(super) fn host_device(&self) -> &str {
        &self.host_device
    }

    /// Returns the commands that create link, addresses and routes. They use the environment variable `CNI_NETNS`.
    ///
    /// With a bypass, the ends have the MAC addresses of uplink and gateway: nothing rewrites those of redirected packets.
    pub(super) fn commands(&self, bypass: Option<&BypassConfig>) -> String {
        let (host, interface, (ipv4, ipv6)) = (&self.host_device, &self.interface, self.addresses);
        let (host_mac, pod_mac) = bypass.map_or((HOST_MAC, String::new()), |bypass| {
            (bypass.gateway_mac.as_str(), format!("address {}", bypass.uplink_mac))
        });
        let (gateway4, gateway6) = GATEWAYS;
        format!(
            "ip link add name {host} address {host_mac} type veth peer name {interface} {pod_mac} netns \"$CNI_NETNS\"
             ip link set dev {host} addrgenmode none
             echo 1 >/proc/sys/net/ipv4/conf/{host}/proxy_arp
             echo 0 >/proc/sys/net/ipv4/neigh/{host}/proxy_delay
             ip address add {gateway6}/64 dev {host} nodad
             ip link set dev {host} up
             ip route replace {ipv4}/32 dev {host} scope link
             ip route replace {ipv6}/128 dev {host}
             nsenter --net=\"$CNI_NETNS\" /bin/sh -euc '
             ip address add {ipv4}/32 dev {interface}
             ip address add {ipv6}/128 dev {interface} nodad
             ip link set dev {interface} up
             ip route add {gateway4}/32 dev {interface} scope link
             ip route add default via {gateway4} dev {interface}
             ip route add default via {gateway6} dev {interface}'
             "
        )
    }

    /// Returns the command that adds a route of the pod by its gateway.
    pub(super) fn route_command(&self, destination: IpAddr, length: u8) -> String {
        let (gateway4, gateway6) = GATEWAYS;
        let gateway = if destination.is_ipv4() { gateway4 } else { gateway6 };
        let interface = &self.interface;
        format!("nsenter --net=\"$CNI_NETNS\" ip route add {destination}/{length} via {gateway} dev {interface}\n")
    }

    /// Returns the result of the command ADD.
    pub(super) fn result(&self, netns: &str) -> Value {
        let ((ipv4, ipv6), (gateway4, gateway6)) = (self.addresses, GATEWAYS);
        json!({
            "cniVersion": CNI_VERSION,
            "interfaces": [{"name": self.host_device}, {"name": self.interface, "sandbox": netns}],
            "ips": [{"address": format!("{ipv4}/32"), "interface": 1}, {"address": format!("{ipv6}/128"), "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": gateway4}, {"dst": "::/0", "gw": gateway6}],
            "dns": {},
        })
    }
}

/// Returns the name of the node's end of a pod's link.
pub(super) fn host_device(container: &str) -> Result<String> {
    let name: String = container.chars().take(MAX_DEVICE_NAME - HOST_DEVICE_PREFIX.len()).collect();
    ensure!(is_alphanumeric(&name), "{container:?} is not a valid ID of a container");
    Ok(format!("{HOST_DEVICE_PREFIX}{name}"))
}

fn is_alphanumeric(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodAttachment {
        let addresses = ("10.244.0.2".parse().unwrap(), "fd00:244::2".parse().unwrap());
        PodAttachment::new("0123456789abcdef", "eth0", addresses).unwrap()
    }

    #[test]
    fn name_of_the_nodes_end_has_the_length_of_a_device() {
        assert_eq!(pod().host_device(), "veth0123456789a");
        assert_eq!(host_device("ab").unwrap(), "vethab");
        for bad in ["", "a b", "$(true)", "../x"] {
            assert!(host_device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn result_has_single_addresses_of_the_pods_interface() {
        let result = pod().result("/run/netns/cni-1");
        assert_eq!(result["ips"][0], json!({"address": "10.244.0.2/32", "interface": 1}));
        assert_eq!(result["ips"][1], json!({"address": "fd00:244::2/128", "interface": 1}));
        assert_eq!(result["interfaces"][1], json!({"name": "eth0", "sandbox": "/run/netns/cni-1"}));
    }

    #[test]
    fn ends_have_the_mac_addresses_of_gateway_and_uplink_only_with_a_bypass() {
        let bypass = BypassConfig { uplink: "eth0".into(), uplink_mac: "02::0b".into(), gateway_mac: "02::01".into() };
        let commands = pod().commands(Some(&bypass));
        let link = commands.lines().next().unwrap();
        assert!(link.contains("address 02::01 type veth") && link.contains("eth0 address 02::0b netns"), "{link}");
        let commands = pod().commands(None);
        let link = commands.lines().next().unwrap();
        assert!(link.contains(HOST_MAC) && link.matches("address").count() == 1, "{link}");
    }
}
