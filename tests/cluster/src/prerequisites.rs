//! Prerequisites on the host: root, programs, the br_netfilter module and Go.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

/// Required programs, with their Debian packages.
const PROGRAMS: [(&str, &str); 12] = [
    ("cc", "build-essential"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("ldd", "libc-bin"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("pkg-config", "pkg-config"),
    ("ps", "procps"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("tc", "iproute2"),
];
/// Directories where distributions install the CNI plugins.
const CNI_PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The CNI plugins of all datapaths.
const CNI_PLUGINS: [&str; 3] = ["bridge", "host-local", "ptp"];
const CNI_PLUGINS_PACKAGE: &str = "containernetworking-plugins";
/// A header of the library that runc is linked with, and its Debian package.
const SECCOMP: (&str, &str) = ("/usr/include/seccomp.h", "libseccomp-dev");
/// Exists if br_netfilter is loaded: kube-proxy's rules then apply to packets between pods of one bridge.
const BRIDGE_FILTER_DIR: &str = "/proc/sys/net/bridge";
/// Minimum Go version: the highest that a module below `go/` requires.
const MIN_GO_VERSION: (u32, u32) = (1, 26);

/// Checks that the process runs as root.
///
/// # Errors
/// If it does not.
pub fn require_root() -> Result<()> {
    ensure!(geteuid().is_root(), "this command creates namespaces and mounts: run it as root");
    Ok(())
}

/// Returns the Debian packages that are required and not installed.
#[must_use]
pub fn missing_packages() -> Vec<&'static str> {
    let programs = PROGRAMS.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package);
    let plugins = cni_plugin_dir().is_none().then_some(CNI_PLUGINS_PACKAGE);
    let (header, seccomp_package) = SECCOMP;
    let seccomp = (!Path::new(header).exists()).then_some(seccomp_package);
    let mut packages: Vec<_> = programs.chain(plugins).chain(seccomp).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Checks all prerequisites except Go. Returns the directory of the CNI plugins.
///
/// # Errors
/// If one is missing. The error names all missing packages and the command that installs them.
pub fn check() -> Result<PathBuf> {
    require_root()?;
    let missing = missing_packages().join(" ");
    ensure!(missing.is_empty(), "missing packages: {missing}. On Debian: apt-get install --yes {missing}");
    if !Path::new(BRIDGE_FILTER_DIR).exists() {
        // The result is checked below.
        drop(Command::new("modprobe").arg("br_netfilter").status());
    }
    ensure!(
        Path::new(BRIDGE_FILTER_DIR).exists(),
        "kernel module br_netfilter is missing; without it a Service does not reach pods of the client's node: \
         modprobe br_netfilter"
    );
    cni_plugin_dir().context("the CNI plugins are missing")
}

fn cni_plugin_dir() -> Option<PathBuf> {
    let has_plugins = |dir: &PathBuf| CNI_PLUGINS.iter().all(|plugin| dir.join(plugin).exists());
    CNI_PLUGIN_DIRS.iter().map(PathBuf::from).find(has_plugins)
}

/// Returns the version of the installed Go.
///
/// # Errors
/// If Go is missing or too old. The error names the required version.
pub fn go_version() -> Result<String> {
    let (major, minor) = MIN_GO_VERSION;
    let advice = format!("install Go {major}.{minor} or newer: https://go.dev/dl/");
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    ensure!(!version.is_empty(), "cannot run go; {advice}");
    ensure!(is_new_enough(&version), "{version} is too old; {advice}");
    Ok(version)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers =
        version.trim_start_matches("go").split(['.', '-', ' ']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= MIN_GO_VERSION
}

/// Returns the path of a program in `PATH` or in a directory of system programs.
#[must_use]
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from)); // not in the PATH of all users
    dirs.into_iter().map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_older_than_minimum_is_rejected() {
        assert!(is_new_enough("go1.26.0") && is_new_enough("go1.26.8") && is_new_enough("go2.0"));
        assert!(!is_new_enough("go1.19.8") && !is_new_enough("go1.25.9") && !is_new_enough("devel"));
    }
}
