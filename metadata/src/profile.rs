//! A `MetadataProfile` after it was validated: what some pods of one namespace are, and how they may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::facts::PodFacts;
use crate::item::Item;
use crate::names::{AccountId, Line, check_text, text_type};
use crate::options::{Limits, MetadataOptions, ProcessUsers};
use crate::role::Role;
use crate::selector::Selector;
use crate::tag::{LabelPattern, StaticTag};

pub use crate::user_data::{MAX_USER_DATA_BYTES, UserDataSource};

/// A validated profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Which object this is.
    pub object: ProfileRef,
    /// When it was made: at equal priority the older profile wins.
    pub created: Timestamp,
    /// The pods it is for, by label.
    pub pods: Selector,
    /// The ServiceAccounts it is for; any, if empty.
    pub service_accounts: BTreeSet<String>,
    /// Of several profiles that match a pod the one with the highest priority wins.
    pub priority: i32,
    /// The dialects that the pods are answered in.
    pub dialects: BTreeSet<Dialect>,
    /// How the pods may ask.
    pub options: MetadataOptions,
    /// What the pods are.
    pub instance: InstanceSpec,
    /// Items of the tree beyond podmeta's own.
    pub items: Vec<Item>,
    /// User data.
    pub user_data: Option<UserDataSource>,
    /// SSH public keys.
    pub public_keys: Vec<PublicKey>,
    /// Which labels become tags.
    pub tag_labels: Vec<LabelPattern>,
    /// Tags with a value of their own.
    pub static_tags: Vec<StaticTag>,
    /// The role of each dialect that has one.
    pub roles: BTreeMap<Dialect, Role>,
    /// What a pod in the node's network namespace gets.
    pub host_network: HostNetwork,
    /// Who in the pod may ask.
    pub users: ProcessUsers,
    /// How much the pod may ask.
    pub limits: Limits,
}

impl Profile {
    /// A profile that selects every pod of its namespace, and sets and serves nothing.
    #[must_use]
    pub fn empty(object: ProfileRef, created: Timestamp) -> Self {
        Self {
            object,
            created,
            pods: Selector::default(),
            service_accounts: BTreeSet::new(),
            priority: 0,
            dialects: BTreeSet::new(),
            options: MetadataOptions::default(),
            instance: InstanceSpec::default(),
            items: Vec::new(),
            user_data: None,
            public_keys: Vec::new(),
            tag_labels: Vec::new(),
            static_tags: Vec::new(),
            roles: BTreeMap::new(),
            host_network: HostNetwork::Deny,
            users: ProcessUsers::default(),
            limits: Limits::default(),
        }
    }

    /// Whether the profile is for this pod.
    #[must_use]
    pub fn matches(&self, pod: &PodFacts) -> bool {
        self.object.namespace == pod.metadata.namespace
            && self.pods.matches(&pod.metadata.labels)
            && (self.service_accounts.is_empty() || self.service_accounts.contains(&pod.spec.service_account_name))
    }

    /// Iterates over the names of the Secrets that the profile refers to. A name may occur more than once.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        let roles = self.roles.values().filter_map(|role| role.provider.secret_name());
        let user_data = match &self.user_data {
            Some(UserDataSource::Secret(key)) => Some(key.name.as_str()),
            Some(UserDataSource::Inline(_) | UserDataSource::ConfigMap(_)) | None => None,
        };
        roles.chain(user_data)
    }

    /// Returns the ConfigMap key that the profile refers to.
    #[must_use]
    pub fn config_map_key(&self) -> Option<&KeyRef> {
        match &self.user_data {
            Some(UserDataSource::ConfigMap(key)) => Some(key),
            Some(UserDataSource::Inline(_) | UserDataSource::Secret(_)) | None => None,
        }
    }
}

/// Which `MetadataProfile` object, and which generation of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// What a pod is as an instance. What is absent is taken from the pod and its node, or is absent from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceSpec {
    /// The cloud account.
    pub account_id: Option<AccountId>,
    /// The region.
    pub region: Option<Line>,
    /// The zone.
    pub availability_zone: Option<Line>,
    /// EC2's id of the zone, the same for every account.
    pub availability_zone_id: Option<Line>,
    /// The instance type.
    pub instance_type: Option<Line>,
    /// The image id; otherwise it is made of the first container's image.
    pub image_id: Option<Line>,
    /// The purchasing option.
    pub life_cycle: Option<LifeCycle>,
    /// Network items that Kubernetes does not know.
    pub network: Network,
}

/// EC2's purchasing option of an instance (`instance-life-cycle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LifeCycle {
    /// On demand.
    OnDemand,
    /// Spot capacity.
    Spot,
    /// A scheduled reservation.
    Scheduled,
    /// A capacity block.
    CapacityBlock,
}

impl LifeCycle {
    /// The value as it is served.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
            Self::Scheduled => "scheduled",
            Self::CapacityBlock => "capacity-block",
        }
    }
}

/// Network items that Kubernetes does not know; each absent one is absent from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// The VPC's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<Line>,
    /// Its IPv4 blocks, the primary one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vpc_ipv4_cidr_blocks: Vec<Ipv4Net>,
    /// Its IPv6 blocks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vpc_ipv6_cidr_blocks: Vec<Ipv6Net>,
    /// The subnet's id (EC2) or vSwitch's id (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<Line>,
    /// The subnet's IPv4 block; the node's pod range if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_ipv4_cidr_block: Option<Ipv4Net>,
    /// The subnet's IPv6 blocks; the node's pod range if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnet_ipv6_cidr_blocks: Vec<Ipv6Net>,
    /// Names of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Line>,
    /// Ids of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_group_ids: Vec<Line>,
    /// The address that the pod is reached at from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ipv4: Option<Ipv4Addr>,
    /// The name of that address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_hostname: Option<Line>,
    /// Name servers, as ECS shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
    /// Time servers, as ECS shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<Line>,
}

/// A key of a ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRef {
    /// The object's name.
    pub name: String,
    /// The key in its data.
    pub key: String,
}

text_type!(
    /// An OpenSSH public key: one line of type, base64 and comment.
    OpenSshKey,
    |text| {
        check_text(text, 16..=4096, |c| !c.is_control(), "one line")?;
        let mut words = text.split(' ');
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix)) && key.starts_with("AAAA") {
            Ok(())
        } else {
            Err("must be an OpenSSH public key, such as \"ssh-ed25519 AAAA… comment\"".to_owned())
        }
    }
);

text_type!(
    /// The name of a public key, or an id made of it: one path segment.
    KeyName,
    |text| check_text(text, 1..=128, |c| c.is_ascii_alphanumeric() || "-_.@+".contains(c), "letters, digits and -_.@+")
        .and_then(|()| if matches!(text, "." | "..") { Err("must not be a dot segment".to_owned()) } else { Ok(()) })
);

/// A public key of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicKey {
    /// Its name.
    pub name: KeyName,
    /// The key.
    pub open_ssh_key: OpenSshKey,
}

/// What a pod in the node's network namespace gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostNetwork {
    /// Nothing.
    Deny,
    /// The node's own metadata service.
    Node,
    /// Its own identity, as other pods.
    Pod,
}
