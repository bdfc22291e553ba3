//! Kernel modules that translate addresses. They need no route: they take packets before the kernel routes them.

use std::path::Path;

/// Names of the modules: Jool as NAT64, Jool as stateless translator, and nat46 of OpenWrt.
const NAMES: [&str; 3] = ["jool", "jool_siit", "nat46"];

/// Returns the names of the loaded modules. A loaded module need not translate in the node's network namespace.
pub(super) fn loaded(directory: &Path) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| directory.join(name).exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_module_is_found_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(loaded(directory.path()), [""; 0]);
        for name in ["jool_common", "jool_siit", "veth"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(loaded(directory.path()), ["jool_siit"]);
        assert_eq!(loaded(&directory.path().join("missing")), [""; 0]);
    }
}
