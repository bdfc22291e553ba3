//! The datapath of a cluster, which is saved in its state directory.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result, ensure};
use clap::ValueEnum as _;

use crate::kubernetes::pki;
use crate::layout::ClusterName;
use crate::network::datapath::Datapath;

/// Returns the datapath of an existing cluster. Saves that of a new cluster: the requested one, or the default.
///
/// # Errors
/// If another datapath than that of the existing cluster is requested.
pub fn select(cluster: &ClusterName, requested: Option<Datapath>) -> Result<Datapath> {
    if let Some(existing) = read(cluster)? {
        ensure_same(cluster, existing, requested)?;
        return Ok(existing);
    }
    let selected = requested.unwrap_or_default();
    pki::write_private(&path(cluster), &selected.to_string())?;
    Ok(selected)
}

/// Returns the saved datapath, or `None` if there is no such cluster.
///
/// # Errors
/// If the file cannot be read, or is not valid.
pub fn read(cluster: &ClusterName) -> Result<Option<Datapath>> {
    let path = path(cluster);
    let saved = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        saved => saved.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let datapath = Datapath::from_str(&saved, false).map_err(Error::msg);
    datapath.map(Some).with_context(|| format!("cannot parse {}", path.display()))
}

fn ensure_same(cluster: &ClusterName, existing: Datapath, requested: Option<Datapath>) -> Result<()> {
    ensure!(
        requested.is_none_or(|requested| requested == existing),
        "cluster {cluster} exists with --cni {existing}, which cannot be changed: delete it with \
         `cluster down --name {cluster}`, or create another cluster with --name"
    );
    Ok(())
}

fn path(cluster: &ClusterName) -> PathBuf {
    cluster.state_dir().join("cni")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_datapath_than_that_of_the_cluster_is_rejected() {
        let cluster: ClusterName = "unit".parse().unwrap();
        for requested in [None, Some(Datapath::Ptp)] {
            ensure_same(&cluster, Datapath::Ptp, requested).unwrap();
        }
        let error = ensure_same(&cluster, Datapath::Ptp, Some(Datapath::Bridge)).unwrap_err().to_string();
        assert!(error.starts_with("cluster unit exists with --cni ptp"), "{error}");
    }
}
