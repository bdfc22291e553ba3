//! Causes of a provider's failure. They are the reasons of the condition `CredentialsReady`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The cause of a provider's failure. If several pods of a profile fail, the status shows the first cause in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureCause {
    /// No policy allows the external ID of the role. The cloud was not called.
    PolicyForbids,
    /// The role's trust policy, or a policy of the organization, does not allow the session.
    AccessDenied,
    /// The cloud does not accept the token: unknown issuer, wrong audience or invalid signature.
    InvalidIdentityToken,
    /// The token or the operator's own session has expired.
    ExpiredToken,
    /// The API server does not issue a token of the pod's ServiceAccount to the operator, or the operator may not request it.
    TokenRequestForbidden,
    /// The cloud limits the rate of calls.
    Throttled,
    /// The cloud or the API server is not reachable, or its response is an internal error or is not valid.
    ProviderUnavailable,
    /// Any other cause, also one that this release does not know.
    #[default]
    #[serde(other)]
    ProviderFailed,
}

impl FailureCause {
    /// Returns true if the failure is temporary or about the operator, so credentials issued before it may still be served.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self {
            Self::ExpiredToken | Self::TokenRequestForbidden | Self::Throttled | Self::ProviderUnavailable => true,
            Self::PolicyForbids | Self::AccessDenied | Self::InvalidIdentityToken | Self::ProviderFailed => false,
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PolicyForbids => "PolicyForbids",
            Self::AccessDenied => "AccessDenied",
            Self::InvalidIdentityToken => "InvalidIdentityToken",
            Self::ExpiredToken => "ExpiredToken",
            Self::TokenRequestForbidden => "TokenRequestForbidden",
            Self::Throttled => "Throttled",
            Self::ProviderUnavailable => "ProviderUnavailable",
            Self::ProviderFailed => "ProviderFailed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_cause_of_another_release_is_provider_failed() {
        assert_eq!(serde_json::from_str::<FailureCause>("\"Throttled\"").unwrap(), FailureCause::Throttled);
        assert_eq!(serde_json::from_str::<FailureCause>("\"Later\"").unwrap(), FailureCause::ProviderFailed);
    }
}
