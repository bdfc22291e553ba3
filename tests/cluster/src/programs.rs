//! Builds the programs of Kubernetes, helm and CoreDNS from their published modules, once: a build is kept under the digest
//! of what it was made of.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use crate::needs;

/// The programs in the one binary of Kubernetes, which are its names.
const KUBERNETES: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// A module below `go/`.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    name: &'static str,
    package: &'static str,
    /// The module whose version is the program's.
    versioned: &'static str,
    names: &'static [&'static str],
    minutes: u8,
}

/// etcd and everything of Kubernetes.
pub const KUBERNETES_MODULE: Module =
    Module { name: "kubernetes", package: ".", versioned: "k8s.io/kubernetes", names: &KUBERNETES, minutes: 5 };
/// helm.
pub const HELM_MODULE: Module = Module {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    versioned: "helm.sh/helm/v4",
    names: &["helm"],
    minutes: 3,
};
/// CoreDNS.
pub const COREDNS_MODULE: Module = Module {
    name: "coredns",
    package: "github.com/coredns/coredns",
    versioned: "github.com/coredns/coredns",
    names: &["coredns"],
    minutes: 2,
};

impl Module {
    /// The folder with the module's programs, built if need be.
    ///
    /// # Errors
    /// If Go is missing or the build fails.
    pub fn build(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(self.name);
        let go = needs::go()?;
        let version = self.version(&source)?;
        let flags = flags(&version);
        let inputs = [self.name, &go, &flags, &sources(&source)?].join("\0");
        let cache = cache()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let built = cache.join(format!("{}-{version}-{}", self.name, short_digest(inputs.as_bytes())));
        let lock = File::create(cache.join(format!("{}.lock", self.name)))?;
        lock.lock().context("cannot lock the cache of programs")?;
        if built.exists() {
            return Ok(built);
        }
        let new = built.with_extension("new");
        drop(fs::remove_dir_all(&new));
        fs::create_dir_all(&new)?;
        let started = Instant::now();
        println!("building {} {version}: about {} minutes on two processors, once", self.name, self.minutes);
        // A build does not outlive the program that wants it: the next one would begin it again beside it.
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
                "-o",
            ])
            .arg(new.join(self.name))
            .arg(self.package)
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            .status()
            .context("cannot run go")?;
        ensure!(status.success(), "{} cannot be built: see above", self.name);
        for name in self.names.iter().filter(|name| **name != self.name) {
            symlink(self.name, new.join(name))?;
        }
        fs::rename(&new, &built)?;
        println!("built {} in {} s, kept in {}", self.name, started.elapsed().as_secs(), built.display());
        Ok(built)
    }

    /// The version that the module's `go.mod` requires.
    fn version(&self, source: &Path) -> Result<String> {
        let text =
            fs::read_to_string(source.join("go.mod")).with_context(|| format!("cannot read {}", source.display()))?;
        let required = text.lines().find_map(|line| {
            let mut words = line.trim().trim_start_matches("require ").split(' ');
            (words.next() == Some(self.versioned)).then(|| words.next()).flatten()
        });
        required.map(str::to_owned).with_context(|| format!("{} requires no {}", source.display(), self.versioned))
    }
}

/// Kubernetes reports the version that the linker was given.
fn flags(version: &str) -> String {
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

fn sources(folder: &Path) -> Result<String> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let text =
        files.iter().map(|file| fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())));
    Ok(text.collect::<Result<Vec<_>>>()?.join("\0"))
}

/// Where what is built once is kept.
///
/// # Errors
/// If there is no home.
pub fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("HOME is not set: there is no place for what is built once")?.join("podmeta").join("cluster"))
}

/// Enough of a digest to tell two inputs apart.
#[must_use]
pub fn short_digest(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_names_the_version_that_it_builds() {
        for module in [KUBERNETES_MODULE, HELM_MODULE, COREDNS_MODULE] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(module.name);
            assert!(module.version(&source).unwrap().starts_with('v'), "{}", module.name);
        }
    }
}
