//! What the machine must have, and how to get what it has not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 13] = [
    ("cc", "build-essential"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("ldd", "libc-bin"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("ps", "procps"),
    ("runc", "runc"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
];
/// Where distributions have the CNI plugins, and the package of Debian that has them.
const PLUGINS: ([&str; 2], &str) = (["/usr/lib/cni", "/opt/cni/bin"], "containernetworking-plugins");
/// Is there when packets between pods of one bridge pass the rules of kube-proxy.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge";
/// The Go that the newest of the modules below `go/` asks for.
const GO: (u32, u32) = (1, 26);

/// Whether this is root, who alone sees and makes clusters.
///
/// # Errors
/// If it is not.
pub fn root() -> Result<()> {
    ensure!(geteuid().is_root(), "a cluster is made of namespaces and mounts: run this as root");
    Ok(())
}

/// The Debian packages that a cluster needs and that are not there.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let programs = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package);
    let plugins = plugins().is_none().then_some(PLUGINS.1);
    let mut packages: Vec<_> = programs.chain(plugins).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// The folder with the CNI plugins, once everything that a cluster needs is there.
///
/// # Errors
/// Names everything that is missing, with the command that installs it.
pub fn check() -> Result<PathBuf> {
    root()?;
    let missing = missing().join(" ");
    ensure!(missing.is_empty(), "missing: {missing}. On Debian: apt-get install --yes {missing}");
    if !Path::new(BRIDGE_FILTER).exists() {
        // Whether it worked shows below.
        drop(Command::new("modprobe").arg("br_netfilter").status());
    }
    let why = "without it a Service does not reach a pod of the same node: modprobe br_netfilter";
    ensure!(Path::new(BRIDGE_FILTER).exists(), "the kernel's br_netfilter is missing; {why}");
    plugins().context("the CNI plugins are missing")
}

fn plugins() -> Option<PathBuf> {
    PLUGINS.0.iter().map(PathBuf::from).find(|folder| folder.join("bridge").exists())
}

/// Whether Go is there and new enough.
///
/// # Errors
/// Says which Go is needed and where it is.
pub fn go() -> Result<String> {
    let (major, minor) = GO;
    let advice = format!("Go {major}.{minor} or newer is needed: https://go.dev/dl/");
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    ensure!(!version.is_empty(), "go cannot be run. {advice}");
    ensure!(is_new_enough(&version), "{version} is too old. {advice}");
    Ok(version)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers =
        version.trim_start_matches("go").split(['.', '-', ' ']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= GO
}

/// Where a program is, if it is in a folder for programs.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from)); // not in every user's PATH
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_go_is_told_from_a_new_one() {
        assert!(is_new_enough("go1.26.0") && is_new_enough("go1.26.8") && is_new_enough("go2.0"));
        assert!(!is_new_enough("go1.19.8") && !is_new_enough("go1.25.9") && !is_new_enough("devel"));
    }
}
