//! The cluster's network: every node has a link to the fabric, a bridge on the machine `control-plane`; the machine has a
//! link to it too. Behind the fabric stand the clouds' metadata addresses. Making it again changes nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::layout::{ClusterName, FABRIC, HostLink, METADATA, Node};
use crate::machine::{Running, text};

/// Plugs the fabric together on the machine `control-plane`, with the link to the machine.
///
/// # Errors
/// If a link cannot be made.
pub fn fabric(cluster: &ClusterName, control_plane: &Running) -> Result<HostLink> {
    let device = cluster.device();
    let (ipv4, ipv6) = FABRIC;
    let metadata = METADATA.map(|address| format!("ip address replace {address} dev lo nodad")).join("\n");
    control_plane.sh(&format!(
        "ip link set dev lo up
         ip link show dev fabric >/dev/null 2>&1 || ip link add name fabric type bridge
         ip address replace {ipv4}/24 dev fabric
         ip address replace {ipv6}/64 dev fabric nodad
         ip link set dev fabric up
         {metadata}"
    ))?;
    let link = host_link(&device)?;
    if !has(control_plane, "machine")? {
        remove(cluster)?; // one that an earlier control plane had
        let pid = control_plane.init().to_string();
        ip(&["link", "add", "dev", &device, "type", "veth", "peer", "name", "machine", "netns", &pid])?;
    }
    ip(&["address", "replace", &format!("{}/30", link.machine()), "dev", &device])?;
    ip(&["link", "set", "dev", &device, "up"])?;
    control_plane
        .sh(&format!("ip address replace {}/30 dev machine; ip link set dev machine up", link.cluster()))
        .context("cannot link the cluster to the machine")?;
    Ok(link)
}

/// Plugs a node into the fabric; nodes reach one another's pods by routes.
///
/// # Errors
/// If a link cannot be made.
pub fn node(node: Node, running: &Running, control_plane: &Running, others: &[Node]) -> Result<()> {
    let port = format!("node-{node}");
    if !has(running, "eth0")? {
        let (own, fabric) = (running.init().to_string(), control_plane.init().to_string());
        ip(&["link", "add", "dev", "eth0", "netns", &own, "type", "veth", "peer", "name", &port, "netns", &fabric])?;
    }
    let ((ipv4, ipv6), (pods4, pods6)) = (node.addresses(), node.pods());
    control_plane.sh(&format!(
        "ip link set dev {port} master fabric up
         ip route replace {pods4} via {ipv4}
         ip route replace {pods6} via {ipv6}"
    ))?;
    let routes = others.iter().filter(|other| **other != node).map(|other| {
        let ((via4, via6), (pods4, pods6)) = (other.addresses(), other.pods());
        format!("ip route replace {pods4} via {via4}; ip route replace {pods6} via {via6}\n")
    });
    let (gateway4, gateway6) = FABRIC;
    running.sh(&format!(
        "ip link set dev lo up
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
         ip address replace {ipv4}/24 dev eth0
         ip address replace {ipv6}/64 dev eth0 nodad
         ip link set dev eth0 up
         ip route replace default via {gateway4}
         ip route replace default via {gateway6}
         {}",
        routes.collect::<String>()
    ))?;
    Ok(())
}

/// Takes the machine's end of the link away.
///
/// # Errors
/// If it cannot be deleted.
pub fn remove(cluster: &ClusterName) -> Result<()> {
    let device = cluster.device();
    match ip(&["link", "delete", "dev", &device]) {
        // It may go on its own, with the other end.
        Err(why) if exists(&device) => Err(why),
        _ => Ok(()),
    }
}

/// The cluster's own /30: the one that its link has, or the first that no device of the machine has.
fn host_link(device: &str) -> Result<HostLink> {
    let links = (0..=u8::MAX).map(HostLink);
    let used = addresses(None)?;
    if exists(device) {
        let own = addresses(Some(device))?;
        if let Some(link) = links.clone().find(|link| own.contains(&format!(" {}/30 ", link.machine()))) {
            return Ok(link);
        }
    }
    let free = |link: &HostLink| !used.contains(&format!(" {}/", link.machine()));
    links.clone().find(free).context("every /30 of 198.18.0.0/16 is used: are there 256 clusters?")
}

fn addresses(device: Option<&str>) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["-oneline", "address", "show"]);
    if let Some(device) = device {
        command.args(["dev", device]);
    }
    text(&command.output().context("cannot run ip")?)
}

fn exists(device: &str) -> bool {
    fs::exists(format!("/sys/class/net/{device}")).unwrap_or(false)
}

fn has(running: &Running, device: &str) -> Result<bool> {
    let output = running.command("ip")?.args(["link", "show", "dev", device]).output()?;
    Ok(output.status.success())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip: apt-get install iproute2")?;
    text(&output).with_context(|| format!("ip {}", arguments.join(" "))).map(drop)
}
