//! What the machine must have, and how to get what it has not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "build-essential"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("setsid", "util-linux"),
];
/// Where distributions have the CNI plugins, and the package of Debian that has them.
const PLUGINS: ([&str; 2], &str) = (["/usr/lib/cni", "/opt/cni/bin"], "containernetworking-plugins");
/// The Go that the Kubernetes modules ask for.
const GO: (u32, u32) = (1, 26);

/// The folder with the CNI plugins, once everything that a cluster needs is there.
///
/// # Errors
/// Names everything that is missing, with the command that installs it.
pub fn check() -> Result<PathBuf> {
    ensure!(geteuid().is_root(), "a cluster is made of namespaces and mounts: run this as root");
    let plugins = PLUGINS.0.iter().map(Path::new).find(|folder| folder.join("bridge").exists());
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|need| need.1).collect();
    if plugins.is_none() {
        packages.push(PLUGINS.1);
    }
    packages.sort_unstable();
    packages.dedup();
    ensure!(packages.is_empty(), "missing: {0}. On Debian: apt-get install --yes {0}", packages.join(" "));
    Ok(plugins.map(Path::to_owned).unwrap_or_default())
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
