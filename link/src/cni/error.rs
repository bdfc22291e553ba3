//! Errors of the plugin, as the container runtime reads them. The runtime shows the message in an event of the pod.

use serde::Serialize;

/// An error object on standard output. Source: CNI specification, section "Error".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{msg}: {details}")]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    cni_version: String,
    code: u32,
    msg: String,
    details: String,
}

/// Code of an error. Codes below 100 are defined by the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniErrorCode {
    /// The version of the configuration is not supported.
    IncompatibleVersion = 1,
    /// An environment variable is missing or not valid.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The configuration cannot be parsed.
    Decode = 6,
    /// The configuration is not valid.
    InvalidConfig = 7,
    /// The runtime must retry later.
    TryAgainLater = 11,
    /// The link could not be made. A code of this plugin.
    Link = 100,
}

impl CniError {
    /// Creates an error. `details` names the cause and the remedy.
    #[must_use]
    pub fn new(code: CniErrorCode, msg: &str, details: impl ToString) -> Self {
        // The oldest version that the plugin supports. All versions have the same form of errors.
        let cni_version = super::VERSIONS.first().copied().unwrap_or_default().to_owned();
        Self { cni_version, code: code as u32, msg: msg.to_owned(), details: details.to_string() }
    }
}
