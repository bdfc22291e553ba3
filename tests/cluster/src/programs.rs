//! Builds Kubernetes, containerd, runc, helm and CoreDNS from their released Go modules. Builds are cached by a digest of their
//! inputs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use crate::prerequisites;

/// Names of the programs in the Kubernetes binary. Each is a symbolic link to it.
const KUBERNETES_PROGRAMS: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// A Go module below `go/`.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    name: &'static str,
    /// The packages of the binaries.
    packages: &'static [&'static str],
    /// Build tags, separated by commas.
    tags: &'static str,
    /// True if a program contains C code.
    uses_cgo: bool,
    /// The dependency whose version is that of the programs.
    versioned_dependency: &'static str,
    /// Names of symbolic links to the binary `name`.
    aliases: &'static [&'static str],
    /// Duration of the build on two CPUs.
    minutes: u8,
}

/// etcd and all Kubernetes programs, in one binary.
pub const KUBERNETES_MODULE: GoModule = GoModule {
    name: "kubernetes",
    packages: &["."],
    tags: "",
    uses_cgo: false,
    versioned_dependency: "k8s.io/kubernetes",
    aliases: &KUBERNETES_PROGRAMS,
    minutes: 5,
};
/// containerd with its shim and `ctr`, and runc.
pub const CONTAINERD_MODULE: GoModule = GoModule {
    name: "containerd",
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/opencontainers/runc",
    ],
    tags: "seccomp,no_btrfs,no_devmapper,no_zfs",
    uses_cgo: true,
    versioned_dependency: "github.com/containerd/containerd/v2",
    aliases: &[],
    minutes: 3,
};
/// helm.
pub const HELM_MODULE: GoModule = GoModule {
    name: "helm",
    packages: &["helm.sh/helm/v4/cmd/helm"],
    tags: "",
    uses_cgo: false,
    versioned_dependency: "helm.sh/helm/v4",
    aliases: &[],
    minutes: 3,
};
/// CoreDNS.
pub const COREDNS_MODULE: GoModule = GoModule {
    name: "coredns",
    packages: &["github.com/coredns/coredns"],
    tags: "",
    uses_cgo: false,
    versioned_dependency: "github.com/coredns/coredns",
    aliases: &[],
    minutes: 2,
};

impl GoModule {
    /// Returns the directory of the module's programs. Builds them if they are not cached.
    ///
    /// # Errors
    /// If Go is missing or the build fails.
    pub fn build(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(self.name);
        let go = prerequisites::go_version()?;
        let version = self.version(&source)?;
        let flags = linker_flags(&version);
        let inputs = [self.name, &go, &flags, self.tags, &self.packages.join(" "), &read_sources(&source)?].join("\0");
        let cache = cache_dir()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let dir = cache.join(format!("{}-{version}-{}", self.name, short_digest(inputs.as_bytes())));
        let lock = File::create(cache.join(format!("{}.lock", self.name)))?;
        lock.lock().context("cannot lock the program cache")?;
        if dir.exists() {
            return Ok(dir);
        }
        let new = dir.with_extension("new");
        drop(fs::remove_dir_all(&new));
        fs::create_dir_all(&new)?;
        let started = Instant::now();
        println!("building {} {version}: about {} minutes on two CPUs, the first time only", self.name, self.minutes);
        // The kernel ends the build with this process. Otherwise the next command would run a second build.
        let status = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "TERM",
                "go",
                "build",
                "-trimpath",
                "-mod=readonly",
                "-buildvcs=false",
                "-ldflags",
                &flags,
                "-tags",
                self.tags,
                "-o",
            ])
            .arg(&new)
            .args(self.packages)
            .current_dir(&source)
            .env("CGO_ENABLED", if self.uses_cgo { "1" } else { "0" })
            .status()
            .context("cannot run go")?;
        ensure!(status.success(), "cannot build {}; see the errors above", self.name);
        for alias in self.aliases {
            symlink(self.name, new.join(alias))?;
        }
        fs::rename(&new, &dir)?;
        println!("built {} in {} s: {}", self.name, started.elapsed().as_secs(), dir.display());
        Ok(dir)
    }

    /// Returns the version of the program from `go.mod`.
    fn version(&self, source: &Path) -> Result<String> {
        let text =
            fs::read_to_string(source.join("go.mod")).with_context(|| format!("cannot read {}", source.display()))?;
        let required = text.lines().find_map(|line| {
            let mut words = line.trim().trim_start_matches("require ").split(' ');
            (words.next() == Some(self.versioned_dependency)).then(|| words.next()).flatten()
        });
        required
            .map(str::to_owned)
            .with_context(|| format!("{} does not require {}", source.display(), self.versioned_dependency))
    }
}

/// Returns linker flags that set the version which Kubernetes reports.
fn linker_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (variable, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
            flags.push_str(&format!(" -X {package}.{variable}={value}"));
        }
    }
    flags
}

fn read_sources(dir: &Path) -> Result<String> {
    let mut files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let text =
        files.iter().map(|file| fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())));
    Ok(text.collect::<Result<Vec<_>>>()?.join("\0"))
}

/// Returns the cache directory: `podmeta/cluster` in `XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// If neither variable is set.
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Ok(base.context("cannot find the cache directory: HOME is not set")?.join("podmeta").join("cluster"))
}

/// Returns the first 12 hex digits of the SHA-256 digest.
#[must_use]
pub fn short_digest(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_mod_of_every_module_contains_the_program_version() {
        for module in [KUBERNETES_MODULE, CONTAINERD_MODULE, HELM_MODULE, COREDNS_MODULE] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(module.name);
            assert!(module.version(&source).unwrap().starts_with('v'), "{}", module.name);
        }
    }
}
