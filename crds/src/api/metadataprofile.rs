//! `MetadataProfile`: the instance metadata of some pods of one namespace.
//!
//! These types do not check ranges. The schema does, and [`crate::profile`] does for objects that no API server has
//! checked. Integers have 64 bits, so that a value out of range gets the message of [`crate::profile`].

#![allow(clippy::duplicated_attributes, reason = "printer columns share types and priorities")]

mod instance;
mod item;
pub(crate) mod messages;
mod options;
mod role;
mod status;
mod tags;
mod user_data;

use kube::CustomResource;
use kube::core::Rule;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::profile::HostNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use self::instance::{InstanceOverridesSpec, NetworkSpec};
pub use self::item::{FieldRefSpec, ItemSpec};
pub use self::options::{LimitsSpec, MetadataOptionsSpec};
pub use self::role::{AliyunOidcSpec, AwsAssumeRoleSpec, AwsWebIdentitySpec, RoleSpec, SecretRefSpec};
pub use self::status::{LastValid, MAX_LAST_VALID_BYTES, MAX_STATUS_PODS, MetadataProfileStatus};
pub use self::tags::{PublicKeySpec, StaticTagSpec, TagsSpec};
pub use self::user_data::{KeyRefSpec, UserDataSpec};
use super::dialect_rules::{self, DIALECT_COUNT};
use super::label_selector::LabelSelector;
use super::{names, schema};

pub(crate) use self::instance::{MAX_BLOCKS, MAX_GROUPS, MAX_SERVERS};
pub(crate) use self::item::MAX_FIELD_PATH_BYTES;
pub(crate) use self::options::{MAX_BURST, MAX_CONNECTIONS, MAX_REQUESTS_PER_SECOND};
pub(crate) use self::tags::{MAX_LABEL_PATTERNS, MAX_STATIC_TAGS};

/// Maximum number of items.
pub(crate) const MAX_ITEMS: usize = 64;
/// Maximum number of public keys.
pub(crate) const MAX_PUBLIC_KEYS: usize = 16;
/// Maximum number of ServiceAccount names.
pub(crate) const MAX_SERVICE_ACCOUNTS: usize = 32;
/// Maximum number of user IDs in each list.
pub(crate) const MAX_USERS: usize = 64;
/// The highest user ID. Linux reserves 4294967295: as -1 it means "unchanged".
pub(crate) const MAX_USER_ID: i64 = 4_294_967_294;

/// Desired state of a MetadataProfile.
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
    doc = "MetadataProfile defines the instance metadata of the pods that it selects: their metadata tree, credentials, user data and tags, and how they may request them. It takes effect for requests that reach a podmeta node agent.",
    printcolumn(
        name = "Dialects",
        type_ = "string",
        json_path = ".spec.dialects",
        description = "Value of spec.dialects."
    ),
    printcolumn(
        name = "Tokens",
        type_ = "string",
        json_path = ".spec.metadataOptions.httpTokens",
        description = "Value of spec.metadataOptions.httpTokens. It applies to requests that reach a node agent."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#,
        description = "Status of condition Accepted: the spec is valid, and every part of it is in effect."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Status of condition Programmed: the node agents hold the profile, and the pods have links to them."
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.matchedPods",
        description = "Number of pods that the profile applies to, except those of PodsExcluded."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Hops",
        type_ = "integer",
        json_path = ".spec.metadataOptions.httpPutResponseHopLimit",
        description = "Value of spec.metadataOptions.httpPutResponseHopLimit.",
        priority = 1
    ),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        description = "Value of spec.priority.",
        priority = 1
    ),
    printcolumn(
        name = "Tokenless 24h",
        type_ = "integer",
        json_path = ".status.tokenlessPods",
        description = "Value of status.tokenlessPods, the number of pods that sent a request without a session token in the last 24 hours. A restart of a node agent resets its pods.",
        priority = 1
    ),
    printcolumn(
        name = "Credentials",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="CredentialsReady")].status"#,
        description = "Status of condition CredentialsReady: every pod that requested credentials got them.",
        priority = 1
    ),
    printcolumn(
        name = "Conflicted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Conflicted")].status"#,
        description = "Status of condition Conflicted: another profile of the same priority applies to a matched pod.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct MetadataProfileSpec {
    /// Label selector of the pods that the profile applies to, in the namespace of the profile. Default: all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// ServiceAccounts that the profile applies to: a pod must run as one of them. At most 32. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "service_accounts")]
    pub service_account_names: Vec<String>,
    /// Priority among the profiles that match a pod. The highest one applies. If they are equal, the oldest profile
    /// applies, and the others get the condition Conflicted.
    #[serde(default)]
    #[schemars(schema_with = "priority")]
    pub priority: i64,
    /// Metadata services that the pods get: `ec2` (Amazon EC2), `ecs` (Alibaba Cloud ECS) or both.
    #[schemars(schema_with = "dialects")]
    pub dialects: Vec<Dialect>,
    /// Instance metadata options, with the names and ranges of the clouds. The defaults are the strictest values.
    #[serde(default)]
    pub metadata_options: MetadataOptionsSpec,
    /// Values that replace facts of the pod and its node. An absent field is taken from the pod and its node. If
    /// Kubernetes does not know the value, the item is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceOverridesSpec>,
    /// Additional items below `meta-data/`. At most 64. The items of one dialect of a pod take at most 32 KiB together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_ITEMS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["dialect", "path"])
    )]
    pub metadata: Vec<ItemSpec>,
    /// User data of the pods, at most 16384 bytes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserDataSpec>,
    /// SSH public keys of the pods. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_PUBLIC_KEYS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub public_keys: Vec<PublicKeySpec>,
    /// Instance tags of the pods. They are served if `metadataOptions.instanceMetadataTags` is `enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<TagsSpec>,
    /// Roles whose credentials the pods get, at most one for each dialect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = DIALECT_COUNT),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["dialect"])
    )]
    pub roles: Vec<RoleSpec>,
    /// Data for pods with `hostNetwork: true`. In a cluster, it has an effect only if the nodes redirect these pods to podmeta
    /// (condition PodsExcluded). `Deny`: 403 on every path. `Pod`: the pod's own data. `Node`: no data from podmeta. A
    /// MetadataPolicy must allow `Node`.
    #[serde(default = "host_network_default")]
    #[schemars(schema_with = "host_network")]
    pub host_network: HostNetwork,
    /// Numeric user IDs in the pod that may send requests. At most 64. Default: all that are not in `deniedUsers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "user_ids")]
    pub allowed_users: Vec<i64>,
    /// Numeric user IDs in the pod whose requests get 403. At most 64. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "user_ids")]
    pub denied_users: Vec<i64>,
    /// Limits on the requests and connections of each pod.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// Returns the CEL rules across fields.
fn rules() -> Vec<Rule> {
    let mut rules = vec![
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
            messages::DUPLICATE_ITEM,
            ".metadata",
        ),
        schema::rule(
            "!has(self.allowedUsers) || !has(self.deniedUsers) \
             || self.deniedUsers.all(user, !(user in self.allowedUsers))",
            messages::USER_IN_BOTH_LISTS,
            ".deniedUsers",
        ),
        dialect_rules::ipv6_rule(),
    ];
    rules.extend(dialect_rules::tag_key_rules());
    rules
}

fn host_network_default() -> HostNetwork {
    HostNetwork::Deny
}

fn service_accounts(generator: &mut SchemaGenerator) -> Schema {
    schema::set(names::object_name_schema(generator), MAX_SERVICE_ACCOUNTS)
}

fn priority(_: &mut SchemaGenerator) -> Schema {
    schema::integer(i64::from(i32::MIN)..=i64::from(i32::MAX))
}

fn dialects(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = schema::set(dialect_rules::dialect(generator), DIALECT_COUNT);
    schema.insert("minItems".to_owned(), 1.into());
    schema
}

fn host_network(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["Deny", "Node", "Pod"])
}

fn user_ids(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::integer(0..=MAX_USER_ID), MAX_USERS)
}
