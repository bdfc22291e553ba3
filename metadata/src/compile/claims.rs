//! Account, region and zone of the signed identity document. A profile only claims them: its author may not own the account.
//! They are signed if policies list them, or in dev mode. Otherwise the cluster's settings and the node decide.

use crate::compile::{Settings, UnlistedClaims};
use crate::facts::Facts;
use crate::names::AccountId;
use crate::policy::{Claim, EffectivePolicy, is_zone_of};
use crate::profile::InstanceSpec;
use crate::role::Role;
use crate::workload::SignedPlace;

/// Returns the first account that may be signed: of the role's ARN, of the profile, of the settings.
pub(super) fn signed_account(
    role: Option<&Role>,
    spec: &InstanceSpec,
    rules: &EffectivePolicy<'_>,
    settings: &Settings,
) -> Option<AccountId> {
    let claims = role.and_then(Role::account).into_iter().chain(spec.account_id.clone());
    let mut signed = claims.filter(|account| is_signed(rules.account_claim(account), settings));
    signed.next().or_else(|| settings.account.clone())
}

/// Returns region and zone. Region: of the profile if it may be signed, else of the settings, else of the node. Zone: of
/// the profile if its name starts with the region and the region may be signed, else of the node.
pub(super) fn signed_place(
    facts: &Facts,
    spec: &InstanceSpec,
    rules: &EffectivePolicy<'_>,
    settings: &Settings,
) -> SignedPlace {
    let label = |key: &str| facts.node.as_ref().and_then(|node| node.label(key)).map(str::to_owned);
    let may_sign = |region: &str| is_signed(rules.region_claim(region), settings);
    let claimed = spec.region.as_ref().map(ToString::to_string).filter(|region| may_sign(region));
    let region = claimed.or_else(|| settings.region.clone()).or_else(|| label("topology.kubernetes.io/region"));
    let claimed = spec.availability_zone.as_ref().map(ToString::to_string).filter(|zone| {
        let region = region.as_deref().unwrap_or_default();
        is_zone_of(zone, region) && may_sign(region)
    });
    SignedPlace { zone: claimed.or_else(|| label("topology.kubernetes.io/zone")), region }
}

fn is_signed(claim: Claim<'_>, settings: &Settings) -> bool {
    match claim {
        Claim::Allowed => true,
        Claim::Forbidden(_) => false,
        Claim::Unlisted => settings.unlisted_claims == UnlistedClaims::Signed,
    }
}
