//! The parts of the schema that differ between dialects. They are derived from the protocol table of
//! `podmeta-metadata`, except the CEL condition of tag keys: a new dialect needs an arm in [`tag_key_condition`].

use kube::core::Rule;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::role::ProviderKind;
use schemars::{Schema, SchemaGenerator};

use super::metadataprofile::messages;
use super::schema;

/// The number of dialects.
pub(super) const DIALECT_COUNT: usize = Dialect::ALL.len();

/// All credential providers.
const PROVIDERS: [ProviderKind; 4] =
    [ProviderKind::Secret, ProviderKind::AwsWebIdentity, ProviderKind::AwsAssumeRole, ProviderKind::AliyunOidc];

/// Returns the schema of a dialect's name.
pub(super) fn dialect(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&Dialect::ALL.map(Dialect::as_str))
}

/// Returns the rules that reject items at reserved paths. Letter case is ignored.
pub(super) fn reserved_path_rules() -> [Rule; DIALECT_COUNT] {
    Dialect::ALL.map(|dialect| {
        let names = dialect.protocol().reserved_names().join("|");
        // `network/interfaces/` identifies the pod, as in `ItemPath::check`.
        let pattern = format!("^((?i:{names})(/|$)|network/interfaces/)");
        let rule = format!("self.dialect != '{dialect}' || !self.path.matches('{pattern}')");
        schema::rule(&rule, messages::RESERVED_PATH, ".path")
    })
}

/// Returns the rules that reject static tags with a key that a dialect of the profile does not allow.
pub(super) fn tag_key_rules() -> [Rule; DIALECT_COUNT] {
    Dialect::ALL.map(|dialect| {
        let (condition, message) = tag_key_condition(dialect);
        let rule = format!(
            "!('{dialect}' in self.dialects) || !has(self.tags) || !has(self.tags.static) \
             || self.tags.static.all(tag, {condition})"
        );
        schema::rule(&rule, message, ".tags.static")
    })
}

/// Returns the CEL condition for a tag key of a dialect, and its message. It must agree with `Protocol::check_tag_key`.
fn tag_key_condition(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::Ec2 => (
            "tag.key.matches('^[-A-Za-z0-9+=.,_:@]*$') && !(tag.key in ['.', '..', '_index'])",
            "must contain only letters, digits and +-=.,_:@ on ec2, and must not be . or .. or _index",
        ),
        Dialect::Ecs => (
            r"tag.key.matches(r'^[^\x00-\x20\x7f-\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}/%?#\\]*$') && !tag.key.startsWith('aliyun') && !tag.key.startsWith('acs:') && !(tag.key in ['.', '..'])",
            "must be one path segment on ecs, and must not start with aliyun or acs:",
        ),
    }
}

/// Returns the schema of a set of providers.
pub(super) fn providers(_: &mut SchemaGenerator) -> Schema {
    let names = PROVIDERS.map(|provider| provider.to_string());
    schema::set(schema::choice(&names.each_ref().map(String::as_str)), PROVIDERS.len())
}

/// Returns the rules that reject a role whose provider the dialect does not support. Each dialect must reject a
/// provider: an empty condition is not valid CEL.
pub(super) fn provider_rules() -> [Rule; DIALECT_COUNT] {
    Dialect::ALL.map(|dialect| {
        let fields = unsupported_providers(dialect).map(|provider| format!("!has(self.{provider})"));
        let rule = format!("self.dialect != '{dialect}' || {}", fields.collect::<Vec<_>>().join(" && "));
        schema::rule(&rule, &unsupported_provider_message(dialect), ".dialect")
    })
}

/// Returns the error of a role whose provider the dialect does not support. It names all such providers.
pub(crate) fn unsupported_provider_message(dialect: Dialect) -> String {
    let names = unsupported_providers(dialect).map(|provider| provider.to_string()).collect::<Vec<_>>().join(" or ");
    format!("a role of {dialect} cannot have {names}")
}

fn unsupported_providers(dialect: Dialect) -> impl Iterator<Item = ProviderKind> {
    PROVIDERS.into_iter().filter(move |provider| !dialect.protocol().supports_provider(*provider))
}

/// Returns the rule that `httpProtocolIpv6: enabled` needs a dialect with an IPv6 address.
pub(super) fn ipv6_rule() -> Rule {
    let dialects = Dialect::ALL.into_iter().filter(|dialect| supports_ipv6(*dialect));
    let conditions = dialects.map(|dialect| format!("'{dialect}' in self.dialects")).collect::<Vec<_>>().join(" || ");
    let rule = format!("self.metadataOptions.httpProtocolIpv6 != 'enabled' || {conditions}");
    schema::rule(&rule, messages::IPV6_NEEDS_EC2, ".metadataOptions.httpProtocolIpv6")
}

/// Returns true if the dialect's metadata service has an IPv6 address.
pub(crate) fn supports_ipv6(dialect: Dialect) -> bool {
    dialect.protocol().selection().addresses.iter().any(std::net::IpAddr::is_ipv6)
}
