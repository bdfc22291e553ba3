//! Links between machines. The nodes and the host each have a link to the fabric, a bridge on the machine `control-plane`.
//! The control plane machine is the gateway of the nodes. It has the clouds' metadata addresses. All functions are
//! idempotent.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::bypass;
use super::datapath::Datapath;
use crate::layout::{ClusterName, FABRIC_ADDRESSES, FABRIC_MAC, HostLink, METADATA_ADDRESSES, NodeId, UPLINK};
use crate::machine::{RunningMachine, command_output};

/// Name of the host link's device on the machine `control-plane`.
const HOST_DEVICE: &str = "host";
/// Metric of routes that apply only if no other route of the same range does.
const LAST_METRIC: u32 = u32::MAX - 1;

/// Creates the fabric on the machine `control-plane`, and its link to the host.
///
/// # Errors
/// If a device cannot be created.
pub fn set_up_fabric(cluster: &ClusterName, control_plane: &RunningMachine) -> Result<HostLink> {
    let device = cluster.host_device();
    let (ipv4, ipv6) = FABRIC_ADDRESSES;
    let metadata = METADATA_ADDRESSES.map(|address| format!("ip address replace {address} dev lo nodad")).join("\n");
    control_plane.sh(&format!(
        "ip link set dev lo up
         ip link show dev fabric >/dev/null 2>&1 || ip link add name fabric address {FABRIC_MAC} type bridge
         ip address replace {ipv4}/24 dev fabric
         ip address replace {ipv6}/64 dev fabric nodad
         ip link set dev fabric up
         {metadata}"
    ))?;
    let link = choose_host_link(&device)?;
    if !has_device(control_plane, HOST_DEVICE)? {
        remove(cluster)?; // the link of an earlier control plane
        let pid = control_plane.init().to_string();
        ip(&["link", "add", "dev", &device, "type", "veth", "peer", "name", HOST_DEVICE, "netns", &pid])?;
    }
    ip(&["address", "replace", &format!("{}/30", link.host()), "dev", &device])?;
    ip(&["link", "set", "dev", &device, "up"])?;
    control_plane
        .sh(&format!("ip address replace {}/30 dev {HOST_DEVICE}; ip link set dev {HOST_DEVICE} up", link.cluster()))
        .context("cannot configure the link to the host")?;
    Ok(link)
}

/// Connects a node to the fabric, and adds routes to the pods of other nodes. Sets up its datapath.
///
/// Packets to an address without a pod are rejected. Otherwise the node and its gateway would send them to each other.
///
/// # Errors
/// If a device or route cannot be created.
pub fn connect_node(
    node: NodeId,
    machine: &RunningMachine,
    control_plane: &RunningMachine,
    all: &[NodeId],
    datapath: Datapath,
) -> Result<()> {
    let port = format!("node-{node}");
    if !has_device(machine, UPLINK)? {
        let (own, fabric, mac) = (machine.init().to_string(), control_plane.init().to_string(), node.mac());
        let device = ["link", "add", "dev", UPLINK, "address", &mac, "netns", &own];
        ip(&[&device[..], &["type", "veth", "peer", "name", &port, "netns", &fabric]].concat())?;
    }
    let ((ipv4, ipv6), (pods4, pods6)) = (node.addresses(), node.pod_ranges());
    control_plane.sh(&format!(
        "ip link set dev {port} master fabric up
         ip route replace {pods4} via {ipv4}
         ip route replace {pods6} via {ipv6}"
    ))?;
    let routes = all.iter().filter(|other| **other != node).map(|other| {
        let ((via4, via6), (pods4, pods6)) = (other.addresses(), other.pod_ranges());
        format!("ip route replace {pods4} via {via4}; ip route replace {pods6} via {via6}\n")
    });
    let (gateway4, gateway6) = FABRIC_ADDRESSES;
    machine.sh(&format!(
        "ip link set dev lo up
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
         ip address replace {ipv4}/24 dev {UPLINK}
         ip address replace {ipv6}/64 dev {UPLINK} nodad
         ip link set dev {UPLINK} up
         ip route replace default via {gateway4}
         ip route replace default via {gateway6}
         ip route replace unreachable {pods4} metric {LAST_METRIC}
         ip route replace unreachable {pods6} metric {LAST_METRIC}
         {}",
        routes.collect::<String>()
    ))?;
    if datapath.bypasses_host_stack() {
        machine.sh(&bypass::node_commands()).context("cannot redirect packets of pods")?;
    }
    Ok(())
}

/// Removes the link between the host and a cluster.
///
/// # Errors
/// If the device cannot be deleted.
pub fn remove(cluster: &ClusterName) -> Result<()> {
    let device = cluster.host_device();
    match ip(&["link", "delete", "dev", &device]) {
        // The kernel may have removed it with the other end.
        Err(error) if device_exists(&device) => Err(error),
        _ => Ok(()),
    }
}

/// Returns the /30 of a cluster: that of its existing device, or the first that no device of the host uses.
fn choose_host_link(device: &str) -> Result<HostLink> {
    let links = (0..=u8::MAX).map(HostLink);
    let used = addresses(None)?;
    if device_exists(device) {
        let own = addresses(Some(device))?;
        if let Some(link) = links.clone().find(|link| own.contains(&format!(" {}/30 ", link.host()))) {
            return Ok(link);
        }
    }
    let free = |link: &HostLink| !used.contains(&format!(" {}/", link.host()));
    links.clone().find(free).context("no free /30 in 198.18.0.0/16: delete clusters")
}

fn addresses(device: Option<&str>) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["-oneline", "address", "show"]);
    if let Some(device) = device {
        command.args(["dev", device]);
    }
    command_output(&command.output().context("cannot run ip")?)
}

fn device_exists(device: &str) -> bool {
    fs::exists(format!("/sys/class/net/{device}")).unwrap_or(false)
}

fn has_device(machine: &RunningMachine, device: &str) -> Result<bool> {
    let output = machine.command("ip")?.args(["link", "show", "dev", device]).output()?;
    Ok(output.status.success())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip: apt-get install iproute2")?;
    command_output(&output).with_context(|| format!("ip {}", arguments.join(" "))).map(drop)
}
