//! Pinned links of the uplink guard.

use std::path::PathBuf;

use podmeta_link::guard::uplink::{self, UplinkGuard};

/// A bpf filesystem at a path of its own, removed on drop.
pub(crate) struct Pins {
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Pins {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bpf");
        uplink::mount(&path).unwrap();
        Self { path, _directory: directory }
    }

    pub(crate) fn guard(&self) -> UplinkGuard {
        UplinkGuard::new(self.path.clone())
    }

    /// Returns the names of the pinned links.
    pub(crate) fn links(&self) -> Vec<String> {
        let names =
            std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut links = names.filter(|name| name.starts_with("uplink-")).collect::<Vec<_>>();
        links.sort();
        links
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        uplink::remove_pins(&self.path).unwrap();
    }
}
