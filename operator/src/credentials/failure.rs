//! Errors of a provider, and what the pod gets. The full error stays in the operator's log and in an event, because it can
//! name the operator's principal or other roles.

use jiff::Timestamp;
use podmeta_metadata::credentials::{CredentialsFailure, FailureCause};

use super::clock_skew::{ClockSkew, WRONG_CLOCK};
use super::request::CloudRole;
use crate::text::{replace_control_characters, truncate};

/// Maximum length of the text that a cloud sends in an error, in bytes.
const MAX_DETAIL: usize = 600;

/// Error of a call to a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ProviderError {
    /// The cause.
    pub cause: FailureCause,
    /// The failed step and the full error, for operators of the cluster.
    pub detail: String,
    /// The request ID of the cloud.
    pub request_id: Option<String>,
    /// The difference of the clocks, if it is large. Only the log has it.
    pub clock_skew: Option<ClockSkew>,
}

impl ProviderError {
    /// Creates an error. Shortens `detail`, and removes control characters.
    #[must_use]
    pub fn new(cause: FailureCause, detail: impl AsRef<str>) -> Self {
        let detail = truncate(&replace_control_characters(detail.as_ref()), MAX_DETAIL);
        Self { cause, detail, request_id: None, clock_skew: None }
    }

    /// Adds the difference of the clocks and its advice, if the difference is large. `date` is the header of the cloud's response.
    #[must_use]
    pub fn with_date(mut self, date: Option<&str>, now: Timestamp) -> Self {
        self.clock_skew = ClockSkew::measure(date, now);
        if self.clock_skew.is_some() {
            self.detail = format!("{}; {WRONG_CLOCK}", self.detail);
        }
        self
    }

    /// Returns the failure for the pod. It has no text of the cloud.
    #[must_use]
    pub fn to_failure(&self, role: &CloudRole, now: Timestamp) -> CredentialsFailure {
        let (arn, kind) = (role.arn(), role.kind());
        let message = match self.cause {
            FailureCause::PolicyForbids => format!("the policies do not allow the external ID of the role {arn}"),
            FailureCause::AccessDenied => {
                format!("the cloud does not allow the session of the role {arn}; check the role's trust policy")
            }
            FailureCause::InvalidIdentityToken => format!(
                "the cloud does not accept the token of the pod's ServiceAccount for the role {arn}; check the OIDC \
                 provider and its audiences"
            ),
            FailureCause::ExpiredToken => format!("a token for the role {arn} has expired; retry later"),
            FailureCause::TokenRequestForbidden => {
                format!("the operator cannot request the token of the pod's ServiceAccount that {kind} needs")
            }
            FailureCause::Throttled => format!("the cloud limits the rate of calls for the role {arn}; retry later"),
            FailureCause::ProviderUnavailable => format!("the provider {kind} is unavailable; retry later"),
            FailureCause::ProviderFailed => format!("the provider {kind} failed for the role {arn}"),
        };
        let message = match self.clock_skew {
            Some(_) => format!("{message}; {WRONG_CLOCK}"),
            None => message,
        };
        CredentialsFailure::of_provider(kind, message, self.cause, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::request::tests::web_identity;

    const ALL: [FailureCause; 8] = [
        FailureCause::PolicyForbids,
        FailureCause::AccessDenied,
        FailureCause::InvalidIdentityToken,
        FailureCause::ExpiredToken,
        FailureCause::TokenRequestForbidden,
        FailureCause::Throttled,
        FailureCause::ProviderUnavailable,
        FailureCause::ProviderFailed,
    ];

    #[test]
    fn pod_gets_the_code_of_the_cloud_without_the_clouds_text() {
        let role = web_identity("shop", "u1").role;
        for cause in ALL {
            let error = ProviderError::new(cause, "User arn:aws:sts::1:assumed-role/operator/x is not authorized");
            let failure = error.to_failure(&role, Timestamp::UNIX_EPOCH);
            assert_eq!(failure.cause, cause);
            assert!(!failure.message.contains("operator/x"), "{}", failure.message);
        }
        let code = |cause| ProviderError::new(cause, "").to_failure(&role, Timestamp::UNIX_EPOCH).code;
        assert_eq!(code(FailureCause::AccessDenied), "AssumeRoleUnauthorizedAccess");
        assert_eq!(code(FailureCause::ProviderUnavailable), "Failed");
    }

    #[test]
    fn detail_is_one_line_of_limited_length() {
        let error = ProviderError::new(FailureCause::ProviderFailed, "ä\r\n".repeat(1000));
        assert!(error.detail.len() <= MAX_DETAIL + '…'.len_utf8() && !error.detail.contains('\n'));
        assert!(error.detail.ends_with('…'));
    }
}
