//! The CNI plugin `routed`: each pod has a link to its node, with single addresses and without a subnet. The plugins of the
//! Debian package give the node's end an address and the pod a subnet.
//!
//! The plugin host-local assigns the addresses. Specification: <https://www.cni.dev/docs/spec/>.

mod routed;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bypass::BypassConfig;
use crate::machine::command_output;
use routed::PodAttachment;

pub use routed::HOST_DEVICE_PREFIX;

/// File name of the plugin.
pub const PLUGIN_TYPE: &str = "routed";
/// Version of the specification.
pub const CNI_VERSION: &str = "1.0.0";
/// Error code of the plugin. The specification reserves those below 100.
const ERROR_CODE: u8 = 100;

/// The fields of a network configuration that the plugin reads.
#[derive(Deserialize)]
struct PluginConfig {
    ipam: IpamConfig,
    bypass: Option<BypassConfig>,
    #[serde(rename = "prevResult")]
    previous_result: Option<CniResult>,
}

#[derive(Deserialize)]
struct IpamConfig {
    #[serde(rename = "type")]
    plugin: String,
}

/// The fields of a result that the plugin reads.
#[derive(Default, Deserialize)]
struct CniResult {
    #[serde(default)]
    ips: Vec<IpConfig>,
    #[serde(default)]
    routes: Vec<RouteConfig>,
}

#[derive(Deserialize)]
struct IpConfig {
    address: String,
}

#[derive(Deserialize)]
struct RouteConfig {
    dst: String,
}

/// Runs the command that the environment variable `CNI_COMMAND` names, with the network configuration from standard input.
/// Prints the result or the error.
///
/// # Errors
/// If the command fails.
pub fn run() -> Result<()> {
    let result = run_command();
    if let Err(error) = &result {
        println!("{}", json!({"cniVersion": CNI_VERSION, "code": ERROR_CODE, "msg": format!("{error:#}")}));
    }
    result
}

fn run_command() -> Result<()> {
    match variable("CNI_COMMAND")?.as_str() {
        "ADD" => {
            let (input, config) = read_config()?;
            println!("{}", add(&input, &config)?);
        }
        "DEL" => {
            let (input, config) = read_config()?;
            delete(&input, &config)?;
        }
        "CHECK" => {}
        "VERSION" => println!("{}", json!({"cniVersion": CNI_VERSION, "supportedVersions": [CNI_VERSION]})),
        other => bail!("the command {other} is not supported"),
    }
    Ok(())
}

fn read_config() -> Result<(Vec<u8>, PluginConfig)> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).context("cannot read stdin")?;
    let config = serde_json::from_slice(&input).context("the network configuration is not valid")?;
    Ok((input, config))
}

/// Attaches the pod to the node. Returns the result.
fn add(input: &[u8], config: &PluginConfig) -> Result<Value> {
    let assigned = run_ipam(input, &config.ipam)?;
    let assigned: CniResult = serde_json::from_str(&assigned).context("cannot parse the assigned addresses")?;
    let addresses = addresses(&assigned).context("a pod needs an IPv4 and an IPv6 address")?;
    let pod = PodAttachment::new(&variable("CNI_CONTAINERID")?, &variable("CNI_IFNAME")?, addresses)?;
    let mut commands = pod.commands(config.bypass.as_ref());
    for (address, length) in destinations(&assigned)? {
        commands.push_str(&pod.route_command(address, length));
    }
    if let Some(bypass) = &config.bypass {
        commands.push_str(&bypass.pod_commands(pod.host_device(), addresses));
    }
    // The commands use CNI_NETNS of this process.
    run_shell(&commands)?;
    Ok(pod.result(&variable("CNI_NETNS")?))
}

/// Detaches the pod. Succeeds if it is not attached.
fn delete(input: &[u8], config: &PluginConfig) -> Result<()> {
    let device = routed::host_device(&variable("CNI_CONTAINERID")?)?;
    let mut commands = String::new();
    if let (Some(bypass), Some((ipv4, _))) = (&config.bypass, config.previous_result.as_ref().and_then(addresses)) {
        commands.push_str(&bypass.delete_commands(ipv4));
    }
    commands.push_str(&format!("! test -e /proc/sys/net/ipv4/conf/{device} || ip link delete dev {device}\n"));
    run_shell(&commands)?;
    run_ipam(input, &config.ipam).map(drop)
}

/// Runs the plugin that assigns addresses, with the same environment and configuration. Returns its output.
fn run_ipam(input: &[u8], ipam: &IpamConfig) -> Result<String> {
    ensure!(!ipam.plugin.contains('/'), "{:?} is not a valid name of a plugin", ipam.plugin);
    let path = variable("CNI_PATH")?;
    let plugins = path.split(':').map(|dir| Path::new(dir).join(&ipam.plugin));
    let plugin = plugins.into_iter().find(|plugin| plugin.exists());
    let plugin = plugin.with_context(|| format!("no plugin {} in {path}", ipam.plugin))?;
    let mut process = Command::new(&plugin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", plugin.display()))?;
    process.stdin.take().context("the plugin has no stdin")?.write_all(input)?;
    command_output(&process.wait_with_output()?).with_context(|| format!("{} failed", plugin.display()))
}

fn run_shell(commands: &str) -> Result<()> {
    let output = Command::new("/bin/sh").args(["-euc", commands]).output().context("cannot run /bin/sh")?;
    command_output(&output).map(drop).context("cannot change the pod's link")
}

/// Returns the first address of each family.
fn addresses(result: &CniResult) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let all = || result.ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse::<IpAddr>().ok());
    let ipv4 = all().find_map(|address| if let IpAddr::V4(address) = address { Some(address) } else { None })?;
    let ipv6 = all().find_map(|address| if let IpAddr::V6(address) = address { Some(address) } else { None })?;
    Some((ipv4, ipv6))
}

/// Returns address and prefix length of each route of the network configuration, except default routes: the pod has them anyway.
fn destinations(result: &CniResult) -> Result<Vec<(IpAddr, u8)>> {
    let parse = |route: &RouteConfig| {
        let (address, length) = route.dst.split_once('/')?;
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    };
    let parse = |route| parse(route).with_context(|| format!("{:?} is not a valid destination of a route", route.dst));
    let mut destinations = result.routes.iter().map(parse).collect::<Result<Vec<_>>>()?;
    destinations.retain(|(_, length)| *length != 0);
    Ok(destinations)
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_result_are_the_first_of_each_family_without_length() {
        let result = |ips: Value| serde_json::from_value::<CniResult>(json!({"ips": ips})).unwrap();
        let ips = json!([{"address": "fd00::2/64"}, {"address": "10.0.0.2/23"}, {"address": "10.0.0.3/23"}]);
        assert_eq!(addresses(&result(ips)), Some(("10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap())));
        assert_eq!(addresses(&result(json!([{"address": "10.0.0.2/23"}]))), None);
    }

    #[test]
    fn destinations_of_a_result_are_its_routes_except_default_ones() {
        let result = |routes: Value| serde_json::from_value::<CniResult>(json!({"routes": routes})).unwrap();
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "100.100.100.200/32"}, {"dst": "::/0", "gw": "fe80::1"}]);
        assert_eq!(destinations(&result(routes)).unwrap(), [("100.100.100.200".parse().unwrap(), 32)]);
        assert!(destinations(&result(json!([{"dst": "10.0.0.0/8; true"}]))).is_err());
    }
}
