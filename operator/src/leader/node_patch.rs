//! Limits and parameters of the patches of Nodes.

use std::time::Duration;

use kube::api::PatchParams;

use crate::cluster::FIELD_MANAGER;

/// Maximum number of concurrent patches of one task.
pub(super) const MAX_CONCURRENT_PATCHES: usize = 8;

/// The timeout of one patch.
pub(super) const PATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the parameters of a patch.
pub(super) fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
