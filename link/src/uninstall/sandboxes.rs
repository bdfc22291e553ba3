//! The sandboxes that were made through podmeta's plugin, from libcni's cache.
//!
//! libcni is the library of containerd, CRI-O and Multus. It writes a file for each interface of a sandbox after all
//! plugins have succeeded. It removes the file after the sandbox is deleted, for CNI version 0.3.1 not in all releases.
//! Source: `cacheAdd` and `DelNetworkList` in containernetworking/cni libcni/api.go.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::cni::conflist::PLUGIN_TYPE;

/// Name of the directory of entries in a cache.
const RESULTS_DIR: &str = "results";

/// An entry of the cache: one interface of a sandbox.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedResult {
    #[serde(rename = "kind")]
    _kind: EntryKind,
    /// ID of the sandbox.
    container_id: String,
    /// The CNI configuration that made the interface, in base64.
    config: String,
}

/// Version of an entry's format. Entries of libcni before 0.8 have no kind and no configuration.
#[derive(Deserialize)]
enum EntryKind {
    #[serde(rename = "cniCacheV1")]
    V1,
}

/// A CNI configuration.
#[derive(Deserialize)]
#[serde(untagged)]
enum CachedConfig {
    List { plugins: Vec<CachedPlugin> },
    Single(CachedPlugin),
}

#[derive(Deserialize)]
struct CachedPlugin {
    #[serde(rename = "type")]
    type_: String,
}

/// Returns the IDs of the sandboxes that were made through podmeta's plugin and not deleted since.
///
/// Reads the entries of the cache and of caches in its subdirectories. Multus has such a cache for the plugins that it
/// starts: `multus`.
///
/// # Errors
/// If the cache does not exist, or an entry cannot be read or parsed. The message names it.
pub(super) fn of_plugin(cache_dir: &Path) -> Result<BTreeSet<String>> {
    let mut sandboxes = BTreeSet::new();
    read_entries(&cache_dir.join(RESULTS_DIR), &mut sandboxes)?;
    let read_dir = || cache_dir.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    for directory in read_dir().with_context(|| format!("cannot read {}", cache_dir.display()))? {
        let results = directory.join(RESULTS_DIR);
        match results.metadata() {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // `read_entries` fails if the directory is not readable.
            _ => read_entries(&results, &mut sandboxes)?,
        }
    }
    Ok(sandboxes)
}

/// Adds the sandboxes of a directory of entries. Skips entries that disappear meanwhile: their sandboxes are deleted.
fn read_entries(directory: &Path, sandboxes: &mut BTreeSet<String>) -> Result<()> {
    let unreadable = || format!("cannot read {}", directory.display());
    for entry in directory.read_dir().with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let content = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result.with_context(|| format!("cannot read {}", path.display()))?,
        };
        sandboxes.extend(parse(&content).with_context(|| format!("cannot parse {}", path.display()))?);
    }
    Ok(())
}

/// Returns the sandbox of an entry if podmeta's plugin is part of its configuration. Pure.
fn parse(entry: &[u8]) -> Result<Option<String>> {
    let CachedResult { container_id, config, .. } = serde_json::from_slice(entry)?;
    let config = STANDARD.decode(config).context("config is not base64")?;
    let plugins = match serde_json::from_slice(&config).context("config is not a CNI configuration")? {
        CachedConfig::List { plugins } => plugins,
        CachedConfig::Single(plugin) => vec![plugin],
    };
    Ok(plugins.iter().any(|plugin| plugin.type_ == PLUGIN_TYPE).then_some(container_id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OURS: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"podmeta-cni"}]}"#;
    const OTHER: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;

    /// Returns an entry with all fields that libcni writes.
    fn entry(sandbox: &str, config: &str) -> Vec<u8> {
        let entry = json!({
            "kind": "cniCacheV1", "containerId": sandbox, "config": STANDARD.encode(config), "ifName": "eth0",
            "networkName": "pods", "netns": "/var/run/netns/cni-1", "cniArgs": [["K8S_POD_NAME", "web"]],
            "capabilityArgs": {"dns": {}}, "result": {"cniVersion": "1.0.0"},
        });
        entry.to_string().into_bytes()
    }

    #[test]
    fn entry_of_a_configuration_with_our_plugin_is_a_sandbox() {
        let single = r#"{"name":"n","type":"podmeta-cni"}"#;
        for config in [OURS, single] {
            assert_eq!(parse(&entry("id1", config)).unwrap().as_deref(), Some("id1"), "{config}");
        }
    }

    #[test]
    fn entry_of_a_configuration_without_our_plugin_is_no_sandbox() {
        let named = r#"{"name":"podmeta-cni","plugins":[{"type":"bridge","bridge":"podmeta-cni"}]}"#;
        for config in [OTHER, named, r#"{"name":"n","type":"loopback"}"#] {
            assert_eq!(parse(&entry("id1", config)).unwrap(), None, "{config}");
        }
    }

    #[test]
    fn invalid_entry_is_an_error() {
        let entry = String::from_utf8(entry("id1", OTHER)).unwrap();
        let result_of_old_libcni = r#"{"cniVersion":"0.4.0","ips":[]}"#;
        let truncated = entry.get(..entry.len() / 2).unwrap();
        let other_kind = entry.replace("cniCacheV1", "cniCacheV2");
        let no_base64 = entry.replace(&STANDARD.encode(OTHER), "!");
        let no_config = entry.replace(&STANDARD.encode(OTHER), &STANDARD.encode("{}"));
        for invalid in ["", result_of_old_libcni, truncated, &other_kind, &no_base64, &no_config] {
            assert!(parse(invalid.as_bytes()).is_err(), "{invalid}");
        }
        assert!(parse(entry.as_bytes()).is_ok());
    }

    /// Makes a cache with entries: path below the cache, sandbox and configuration.
    fn cache(entries: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(cache.path().join("results")).unwrap();
        for (path, sandbox, config) in entries {
            let path = cache.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, entry(sandbox, config)).unwrap();
        }
        cache
    }

    #[test]
    fn sandboxes_of_our_plugin_are_found_once_also_in_the_cache_of_multus() {
        let cache = cache(&[
            ("results/pods-id1-eth0", "id1", OURS),
            ("results/pods-id1-net1", "id1", OURS),
            ("results/pods-id2-eth0", "id2", OTHER),
            ("multus/results/pods-id3-eth0", "id3", OURS),
        ]);
        // Files of Multus and of the plugin host-local.
        std::fs::write(cache.path().join("multus/id3"), "[]").unwrap();
        std::fs::create_dir_all(cache.path().join("networks/pods")).unwrap();
        std::fs::write(cache.path().join("file"), "").unwrap();
        let sandboxes = of_plugin(cache.path()).unwrap();
        assert_eq!(sandboxes.iter().map(String::as_str).collect::<Vec<_>>(), ["id1", "id3"]);
    }

    #[test]
    fn missing_cache_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = format!("{:#}", of_plugin(directory.path()).unwrap_err());
        assert!(error.contains("cannot read") && error.contains("results"), "{error}");
    }

    #[test]
    fn invalid_entry_fails_with_its_path() {
        let cache = cache(&[("results/pods-id1-eth0", "id1", OTHER), ("multus/results/pods-id2-eth0", "id2", OTHER)]);
        assert!(of_plugin(cache.path()).unwrap().is_empty());
        for path in ["results/pods-id1-eth0", "multus/results/pods-id2-eth0"] {
            let path = cache.path().join(path);
            let valid = std::fs::read(&path).unwrap();
            std::fs::write(&path, "{").unwrap();
            let error = format!("{:#}", of_plugin(cache.path()).unwrap_err());
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            std::fs::write(&path, valid).unwrap();
        }
    }
}
