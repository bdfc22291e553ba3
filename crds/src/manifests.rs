//! Loads Kubernetes objects from YAML and JSON files, without a cluster. The dev server uses it.
//!
//! An invalid object is left out and reported as a [`ManifestError`] with its file and line. Values that only a cluster
//! knows, such as UIDs, are generated. They are the same each time.

mod defaults;
mod error;
mod list_check;
mod loader;
mod object;
mod references;
#[cfg(test)]
mod tests;
mod workload;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::Facts;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::Profile;

use self::error::ObjectSource;
use self::loader::Loader;
use self::references::ProfileReference;

pub use self::error::{Location, ManifestError};
pub use self::references::check_references;

/// A file with its content.
#[derive(Clone, Debug)]
pub struct ManifestFile {
    /// The name in error messages.
    pub name: String,
    /// The content.
    pub text: String,
}

/// A loaded pod.
#[derive(Clone, Debug)]
pub struct LoadedPod {
    /// The facts of the pod, its namespace and its node.
    pub facts: Facts,
    /// The addresses in its status.
    pub addresses: Vec<IpAddr>,
    /// The file and line of the pod.
    pub location: Location,
}

/// The objects of the loaded files.
#[derive(Debug, Default)]
pub struct LoadedObjects {
    /// The pods, in the order of the files.
    pub pods: Vec<LoadedPod>,
    /// The valid profiles.
    pub profiles: Vec<Profile>,
    /// The valid policies.
    pub policies: Vec<Policy>,
    /// A message for each object of a kind that podmeta does not use.
    pub skipped: Vec<String>,
    secrets: BTreeMap<(String, String), SecretData>,
    config_maps: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    references: Vec<ProfileReference>,
    sources: BTreeMap<ObjectKey, ObjectSource>,
}

/// Kind, namespace and name of an object. The namespace of a cluster-scoped object is empty.
type ObjectKey = (String, String, String);

impl LoadedObjects {
    /// Returns the data of a Secret, or `None` if it does not exist or profiles cannot use it
    /// ([`podmeta_metadata::credentials::is_usable`]).
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&SecretData> {
        self.secrets.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Returns the data of a ConfigMap.
    #[must_use]
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.config_maps.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Returns the location of a field, or of its nearest parent that the file contains. The namespace of a
    /// cluster-scoped object is empty. Returns `None` if there is no such object.
    #[must_use]
    pub fn locate(&self, kind: &str, namespace: &str, name: &str, field: &str) -> Option<Location> {
        Some(self.source(kind, namespace, name)?.locate(field))
    }

    fn source(&self, kind: &str, namespace: &str, name: &str) -> Option<&ObjectSource> {
        self.sources.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }
}

/// Loads files. `now` is the time of taints that have no time.
#[must_use]
pub fn load(files: &[ManifestFile], now: Timestamp) -> (LoadedObjects, Vec<ManifestError>) {
    let mut loader = Loader::default();
    for file in files {
        loader.add_file(file);
    }
    loader.finish(now)
}
