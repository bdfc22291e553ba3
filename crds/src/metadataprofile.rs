//! `MetadataProfile` as users write it: what some pods of one namespace are, and how they may ask.
//!
//! The types hold whatever has the right shape; ranges are the schema's, and [`crate::profile`]'s for those who have no
//! API server. Numbers are therefore 64 bits wide here: one that is too big is an error with a name, not a parser's.

#![allow(clippy::duplicated_attributes, reason = "printer columns share types and priorities")]

mod instance;
mod item;
mod options;
mod role;
mod status;
mod tags;
mod user_data;

use kube::CustomResource;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::profile::HostNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use self::instance::{InstanceSpec, NetworkSpec};
pub use self::item::{FieldRef, MetadataItem};
pub use self::options::{LimitsSpec, MetadataOptionsSpec};
pub use self::role::{AliyunOidc, AwsAssumeRole, AwsWebIdentity, RoleSpec, SecretRef};
pub use self::status::{LastValid, MAX_SPEC, MAX_STATUS_PODS, MetadataProfileStatus};
pub use self::tags::{PublicKeySpec, StaticTagSpec, TagsSpec};
pub use self::user_data::{KeyReference, UserData};
use crate::labels::LabelSelector;
use crate::{names, schema};

pub(crate) use self::instance::{MAX_BLOCKS, MAX_GROUPS, MAX_SERVERS};
pub(crate) use self::item::MAX_FIELD_PATH;
pub(crate) use self::options::{MAX_BURST, MAX_CONNECTIONS, MAX_RATE};
pub(crate) use self::tags::{MAX_LABELS, MAX_STATIC};

/// How many items a profile may have.
pub(crate) const MAX_ITEMS: usize = 64;
/// How many public keys a profile may have.
pub(crate) const MAX_PUBLIC_KEYS: usize = 16;
/// How many ServiceAccounts a profile may name.
pub(crate) const MAX_SERVICE_ACCOUNTS: usize = 32;
/// How many users either list may name.
pub(crate) const MAX_USERS: usize = 64;
/// The highest user id; the one above it means "unchanged" to Linux.
pub(crate) const MAX_USER: i64 = 4_294_967_294;

/// What the rules across fields say when they fail: the same words in the schema and in [`crate::profile`].
pub(crate) mod messages {
    pub(crate) const ROLE_DIALECT: &str = "must be a dialect that spec.dialects lists";
    pub(crate) const ITEM_DIALECT: &str = "must be a dialect that spec.dialects lists";
    pub(crate) const ONE_ROLE: &str =
        "a dialect may have one role at most, because clients take the whole listing as its name";
    pub(crate) const ITEM_TWICE: &str = "two items of one dialect have this path";
    pub(crate) const EC2_TAG: &str =
        "must contain letters, digits and +-=.,_:@ on ec2 only, and must not be . or .. or _index";
    pub(crate) const ECS_TAG: &str = "must be one path segment on ecs, and must not start with aliyun or acs:";
    pub(crate) const USER_TWICE: &str = "a user must not be in allowedUsers too";
    pub(crate) const IPV6: &str = "enabled needs the dialect ec2: ecs has no address over IPv6";
    pub(crate) const BURST: &str = "must be at least requestsPerSecond";
    pub(crate) const ONE_SOURCE: &str = "exactly one of value, fieldRef and expression must be set";
    pub(crate) const RESERVED: &str = "identifies the pod, or has a field of its own";
    pub(crate) const DOT_SEGMENT: &str = "must not have an empty segment or a dot segment";
    pub(crate) const ONE_USER_DATA: &str = "exactly one of inline, configMapKeyRef and secretKeyRef must be set";
    pub(crate) const ONE_PROVIDER: &str =
        "exactly one of secret, awsWebIdentity, awsAssumeRole and aliyunOidc must be set";
    pub(crate) const AWS_PROVIDER: &str = "awsWebIdentity and awsAssumeRole are for roles of ec2";
    pub(crate) const ALIYUN_PROVIDER: &str = "aliyunOidc is for roles of ecs";
}

/// The desired state of a MetadataProfile.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podmeta.dev",
    version = "v1alpha1",
    kind = "MetadataProfile",
    namespaced,
    status = "MetadataProfileStatus",
    shortname = "mdp",
    category = "podmeta",
    derive = "PartialEq",
    doc = "A MetadataProfile gives the pods that it selects an instance metadata identity of their own: what they are, which credentials they get, and how they may ask.",
    printcolumn(name = "Dialects", type_ = "string", json_path = ".spec.dialects"),
    printcolumn(name = "Tokens", type_ = "string", json_path = ".spec.metadataOptions.httpTokens"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.matchedPods"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Hops",
        type_ = "integer",
        json_path = ".spec.metadataOptions.httpPutResponseHopLimit",
        priority = 1
    ),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "Tokenless", type_ = "integer", json_path = ".status.tokenlessPods", priority = 1),
    printcolumn(
        name = "Credentials",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="CredentialsReady")].status"#,
        priority = 1
    ),
    printcolumn(
        name = "Conflicted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Conflicted")].status"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "!has(self.roles) || self.roles.all(role, role.dialect in self.dialects)",
        messages::ROLE_DIALECT,
        ".roles",
    ),
    schema::rule(
        "!has(self.roles) || self.roles.all(role, self.roles.exists_one(other, other.dialect == role.dialect))",
        messages::ONE_ROLE,
        ".roles",
    ),
    schema::rule(
        "!has(self.metadata) || self.metadata.all(item, item.dialect in self.dialects)",
        messages::ITEM_DIALECT,
        ".metadata",
    ),
    schema::rule(
        "!has(self.metadata) || self.metadata.all(item, \
         self.metadata.exists_one(other, other.path == item.path && other.dialect == item.dialect))",
        messages::ITEM_TWICE,
        ".metadata",
    ),
    schema::rule(
        "!('ec2' in self.dialects) || !has(self.tags) || !has(self.tags.static) || self.tags.static.all(tag, \
         tag.key.matches('^[-A-Za-z0-9+=.,_:@]*$') && !(tag.key in ['.', '..', '_index']))",
        messages::EC2_TAG,
        ".tags.static",
    ),
    schema::rule(
        r"!('ecs' in self.dialects) || !has(self.tags) || !has(self.tags.static) || self.tags.static.all(tag, tag.key.matches(r'^[^\x00-\x20\x7f-\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}/%?#\\]*$') && !tag.key.startsWith('aliyun') && !tag.key.startsWith('acs:') && !(tag.key in ['.', '..']))",
        messages::ECS_TAG,
        ".tags.static",
    ),
    schema::rule(
        "!has(self.allowedUsers) || !has(self.deniedUsers) || self.deniedUsers.all(user, !(user in self.allowedUsers))",
        messages::USER_TWICE,
        ".deniedUsers",
    ),
    schema::rule(
        "self.metadataOptions.httpProtocolIpv6 != 'enabled' || 'ec2' in self.dialects",
        messages::IPV6,
        ".metadataOptions.httpProtocolIpv6",
    ),
]))]
pub struct MetadataProfileSpec {
    /// The pods of the namespace that the profile is for, by label. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// The ServiceAccounts whose pods the profile is for. Absent or empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "service_accounts")]
    pub service_account_names: Vec<String>,
    /// Of several profiles that match a pod the one with the highest priority wins. At equal priority the older one
    /// does, and the other says Conflicted.
    #[serde(default)]
    #[schemars(schema_with = "priority")]
    pub priority: i64,
    /// The clouds whose metadata service the pods are given: `ec2`, `ecs` or both.
    #[schemars(schema_with = "dialects")]
    pub dialects: Vec<Dialect>,
    /// How the pods may ask, in the clouds' own words. The defaults are the secure ones.
    #[serde(default)]
    pub metadata_options: MetadataOptionsSpec,
    /// What the pods are. What is absent is taken from the pod and its node where Kubernetes knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceSpec>,
    /// Items below `meta-data/` beyond podmeta's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_ITEMS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["dialect", "path"])
    )]
    pub metadata: Vec<MetadataItem>,
    /// User data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// SSH public keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_PUBLIC_KEYS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub public_keys: Vec<PublicKeySpec>,
    /// Instance tags. They are served where `metadataOptions.instanceMetadataTags` is `enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagsSpec>,
    /// The roles whose credentials the pods get, at most one for each dialect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["dialect"]))]
    pub roles: Vec<RoleSpec>,
    /// What a pod in the node's network namespace gets. `Deny`: nothing. `Pod`: its own identity, as other pods.
    /// `Node`: the node's own metadata service, where a MetadataPolicy allows that.
    #[serde(default = "deny")]
    #[schemars(schema_with = "host_network")]
    pub host_network: HostNetwork,
    /// The numeric ids of the users inside the pod who may ask. Absent or empty: everyone who is not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "users")]
    pub allowed_users: Vec<i64>,
    /// The numeric ids of the users inside the pod who may not ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "users")]
    pub denied_users: Vec<i64>,
    /// How much one pod may ask.
    #[serde(default)]
    pub limits: LimitsSpec,
}

fn deny() -> HostNetwork {
    HostNetwork::Deny
}

fn service_accounts(generator: &mut SchemaGenerator) -> Schema {
    schema::set(names::object_name_schema(generator), MAX_SERVICE_ACCOUNTS)
}

fn priority(_: &mut SchemaGenerator) -> Schema {
    schema::integer(i64::from(i32::MIN)..=i64::from(i32::MAX))
}

fn dialects(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = schema::set(schema::dialect(generator), 2);
    schema.insert("minItems".to_owned(), 1.into());
    schema
}

fn host_network(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["Deny", "Node", "Pod"])
}

fn users(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::integer(0..=MAX_USER), MAX_USERS)
}
