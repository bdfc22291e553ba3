//! Error codes of failures. The cloud of the role's provider determines them. Source of the codes of Alibaba Cloud: error codes of
//! STS 2015-04-01, and common errors. The documents of Alibaba Cloud do not name the codes of the metadata service.

use super::FailureCause;
use crate::role::ProviderKind;

/// The code of each failure on EC2, except that of a refused role. Source: EC2 returns it if it cannot get credentials.
pub(super) const FAILED: &str = "Failed";

/// The code of a refused role on EC2. Source: EC2 returns it if the trust policy does not allow EC2 (aws/aws-cli issue 2060).
const EC2_REFUSED: &str = "AssumeRoleUnauthorizedAccess";

/// The code of a refused role on ECS.
const ALIYUN_REFUSED: &str = "NoPermission";

/// Returns the code of a cause.
pub(super) fn code(provider: ProviderKind, cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::PolicyForbids
        | FailureCause::AccessDenied
        | FailureCause::InvalidIdentityToken
        | FailureCause::TokenRequestForbidden => refused_code(provider),
        FailureCause::ExpiredToken => aliyun_or_failed(provider, "AuthenticationFail.OIDCToken.Expired"),
        FailureCause::Throttled => aliyun_or_failed(provider, "Throttling"),
        FailureCause::ProviderUnavailable => aliyun_or_failed(provider, "ServiceUnavailable"),
        FailureCause::ProviderFailed => aliyun_or_failed(provider, "InternalError"),
    }
}

/// Returns the code of a role that may not be used.
pub(super) fn refused_code(provider: ProviderKind) -> &'static str {
    match provider {
        ProviderKind::AwsWebIdentity | ProviderKind::AwsAssumeRole => EC2_REFUSED,
        ProviderKind::AliyunOidc => ALIYUN_REFUSED,
        ProviderKind::Secret => FAILED,
    }
}

/// Returns `aliyun` for `aliyunOidc`, otherwise `Failed`. EC2 has one code for these causes.
fn aliyun_or_failed(provider: ProviderKind, aliyun: &'static str) -> &'static str {
    match provider {
        ProviderKind::AliyunOidc => aliyun,
        ProviderKind::AwsWebIdentity | ProviderKind::AwsAssumeRole | ProviderKind::Secret => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_has_the_code_of_the_providers_cloud() {
        let refused = ["Failed", EC2_REFUSED, EC2_REFUSED, "NoPermission"];
        let failed = |aliyun| ["Failed", "Failed", "Failed", aliyun];
        for (cause, codes) in [
            (FailureCause::PolicyForbids, refused),
            (FailureCause::AccessDenied, refused),
            (FailureCause::InvalidIdentityToken, refused),
            (FailureCause::ExpiredToken, failed("AuthenticationFail.OIDCToken.Expired")),
            (FailureCause::TokenRequestForbidden, refused),
            (FailureCause::Throttled, failed("Throttling")),
            (FailureCause::ProviderUnavailable, failed("ServiceUnavailable")),
            (FailureCause::ProviderFailed, failed("InternalError")),
        ] {
            let providers = [
                ProviderKind::Secret,
                ProviderKind::AwsWebIdentity,
                ProviderKind::AwsAssumeRole,
                ProviderKind::AliyunOidc,
            ];
            assert_eq!(providers.map(|provider| code(provider, cause)), codes, "{cause}");
        }
    }
}
