//! The error codes of Alibaba Cloud's STS.

use podmeta_metadata::credentials::FailureCause;

/// Returns the cause of an error code. Source: error codes of STS 2015-04-01, and the common errors of RPC calls.
pub(super) fn cause_of(code: &str, status: u16) -> FailureCause {
    match code {
        // AWS also reports a role that does not exist as one that the caller may not use.
        "NoPermission"
        | "AuthenticationFail.NoPermission"
        | "ImplicitDeny"
        | "ExplicitDeny"
        | "EntityNotExist.Role" => FailureCause::AccessDenied,
        "AuthenticationFail.OIDCToken.Expired" => FailureCause::ExpiredToken,
        _ if code.starts_with("AuthenticationFail.") => FailureCause::InvalidIdentityToken,
        _ if code == "Throttling" || code.starts_with("Throttling.") || status == 429 => FailureCause::Throttled,
        _ if status >= 500 => FailureCause::ProviderUnavailable,
        _ => FailureCause::ProviderFailed,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::credentials::failure::ProviderError;
    use crate::credentials::providers::tests::aliyun_oidc;

    /// Status, code of the STS, cause and code for the pod. The page of STS error codes lists the codes with status 401.
    /// Codes of other pages have a status of the same kind of error, because those pages do not have one.
    const ERRORS: [(u16, &str, FailureCause, &str); 25] = [
        (401, "AuthenticationFail.NoPermission", FailureCause::AccessDenied, "NoPermission"),
        (401, "AuthenticationFail.OIDCToken.AudienceNotMatch", FailureCause::InvalidIdentityToken, "NoPermission"),
        (
            401,
            "AuthenticationFail.OIDCToken.Expired",
            FailureCause::ExpiredToken,
            "AuthenticationFail.OIDCToken.Expired",
        ),
        (401, "AuthenticationFail.OIDCToken.HttpsUrlInvalid", FailureCause::InvalidIdentityToken, "NoPermission"),
        (401, "AuthenticationFail.OIDCToken.Invalid", FailureCause::InvalidIdentityToken, "NoPermission"),
        (401, "AuthenticationFail.OIDCToken.InvalidSignature", FailureCause::InvalidIdentityToken, "NoPermission"),
        // RRSA of ACK
        (401, "AuthenticationFail.OIDCToken.IssuerNotMatch", FailureCause::InvalidIdentityToken, "NoPermission"),
        (
            401,
            "AuthenticationFail.OIDCToken.IssuerConfigurationBroken",
            FailureCause::InvalidIdentityToken,
            "NoPermission",
        ),
        (
            401,
            "AuthenticationFail.OIDCToken.PublicKeyFingerprintMismatch",
            FailureCause::InvalidIdentityToken,
            "NoPermission",
        ),
        // AssumeRole
        (403, "NoPermission", FailureCause::AccessDenied, "NoPermission"),
        (403, "ImplicitDeny", FailureCause::AccessDenied, "NoPermission"),
        (403, "ExplicitDeny", FailureCause::AccessDenied, "NoPermission"),
        (404, "EntityNotExist.Role", FailureCause::AccessDenied, "NoPermission"),
        (400, "InvalidParameter.RoleSessionName", FailureCause::ProviderFailed, "InternalError"),
        (400, "InvalidParameter.DurationSeconds", FailureCause::ProviderFailed, "InternalError"),
        (400, "InvalidParameter.PolicyGrammar", FailureCause::ProviderFailed, "InternalError"),
        // common errors
        (400, "MissingParameter", FailureCause::ProviderFailed, "InternalError"),
        (400, "IllegalTimestamp", FailureCause::ProviderFailed, "InternalError"),
        (404, "InvalidAction.NotFound", FailureCause::ProviderFailed, "InternalError"),
        (400, "Throttling", FailureCause::Throttled, "Throttling"),
        (400, "Throttling.User", FailureCause::Throttled, "Throttling"),
        (400, "Throttling.Api", FailureCause::Throttled, "Throttling"),
        (429, "TooManyRequests", FailureCause::Throttled, "Throttling"),
        (500, "InternalError", FailureCause::ProviderUnavailable, "ServiceUnavailable"),
        (503, "ServiceUnavailable", FailureCause::ProviderUnavailable, "ServiceUnavailable"),
    ];

    #[test]
    fn error_code_determines_the_cause_and_the_code_for_the_pod() {
        let role = aliyun_oidc().role;
        for (status, code, cause, pod_code) in ERRORS {
            let error = ProviderError::new(cause_of(code, status), format!("{code}: from the cloud"));
            let failure = error.to_failure(&role, Timestamp::UNIX_EPOCH);
            assert_eq!((failure.cause, failure.code.as_ref()), (cause, pod_code), "{code}");
            assert!(!failure.message.contains("from the cloud"), "{}", failure.message);
        }
    }
}
