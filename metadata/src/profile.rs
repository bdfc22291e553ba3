//! Validated `MetadataProfile` objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

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
use crate::workload::MacAddress;

pub use crate::user_data::{MAX_USER_DATA_BYTES, UserDataSource};

/// A validated profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The object.
    pub object: ProfileRef,
    /// The creation time. At equal priority the older profile applies.
    pub created: Timestamp,
    /// The pods that it matches, by label.
    pub pods: Selector,
    /// The ServiceAccounts that it matches. Empty: all.
    pub service_accounts: BTreeSet<String>,
    /// If several profiles match a pod, the one with the highest priority applies.
    pub priority: i32,
    /// The dialects of the pods.
    pub dialects: BTreeSet<Dialect>,
    /// The instance metadata options.
    pub options: MetadataOptions,
    /// The properties of the instance.
    pub instance: InstanceSpec,
    /// Additional items of the tree.
    pub items: Vec<Item>,
    /// User data.
    pub user_data: Option<UserDataSource>,
    /// SSH public keys.
    pub public_keys: Vec<PublicKey>,
    /// The labels that become tags.
    pub tag_labels: Vec<LabelPattern>,
    /// Tags with fixed values.
    pub static_tags: Vec<StaticTag>,
    /// The roles, by dialect.
    pub roles: BTreeMap<Dialect, Role>,
    /// Metadata mode of hostNetwork pods.
    pub host_network: HostNetwork,
    /// The users whose processes may send requests.
    pub users: ProcessUsers,
    /// The limits of each pod.
    pub limits: Limits,
}

impl Profile {
    /// Returns a profile that matches every pod of its namespace and has default values and no dialect.
    #[must_use]
    pub fn with_defaults(object: ProfileRef, created: Timestamp) -> Self {
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

    /// Returns true if the profile matches this pod. No profile matches a mirror pod: a kubelet chose its namespace and labels.
    #[must_use]
    pub fn matches(&self, pod: &PodFacts) -> bool {
        let runs_as = pod.spec.service_account_name.as_ref();
        !pod.is_mirror()
            && self.object.namespace == pod.metadata.namespace
            && self.pods.matches(&pod.metadata.labels)
            && (self.service_accounts.is_empty() || runs_as.is_some_and(|name| self.service_accounts.contains(name)))
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

/// A generation of a `MetadataProfile` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// The properties of the instance. An absent property comes from the pod or its node, or is absent from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceSpec {
    /// The cloud account.
    pub account_id: Option<AccountId>,
    /// The region.
    pub region: Option<Line>,
    /// The zone.
    pub availability_zone: Option<Line>,
    /// EC2's zone ID, which is the same for all accounts.
    pub availability_zone_id: Option<Line>,
    /// The instance type.
    pub instance_type: Option<Line>,
    /// The image ID. Default: a hash of the first container's image.
    pub image_id: Option<Line>,
    /// The purchasing option.
    pub life_cycle: Option<LifeCycle>,
    /// Network properties that Kubernetes does not have.
    pub network: Network,
    /// Vendor data (ECS).
    pub vendor_data: Option<VendorData>,
}

/// The purchasing option of an instance (EC2 `instance-life-cycle`).
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
    /// Returns the value that is served.
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

/// Network properties that Kubernetes does not have. An absent one is absent from the tree, unless it has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// The MAC address. Default: the link's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The IPv4 gateway (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// The IPv6 gateway (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// The IPv4 prefixes that are delegated to the interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv4_prefixes: Vec<Ipv4Net>,
    /// The IPv6 prefixes that are delegated to the interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6_prefixes: Vec<Ipv6Net>,
    /// The VPC ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<Line>,
    /// The VPC's IPv4 blocks, the primary one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vpc_ipv4_cidr_blocks: Vec<Ipv4Net>,
    /// The VPC's IPv6 blocks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vpc_ipv6_cidr_blocks: Vec<Ipv6Net>,
    /// The subnet ID (EC2) or vSwitch ID (ECS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<Line>,
    /// The subnet's IPv4 block. Default: the node's pod range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_ipv4_cidr_block: Option<Ipv4Net>,
    /// The subnet's IPv6 blocks. Default: the node's pod ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnet_ipv6_cidr_blocks: Vec<Ipv6Net>,
    /// The names of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Line>,
    /// The IDs of security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_group_ids: Vec<Line>,
    /// The public IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ipv4: Option<Ipv4Addr>,
    /// The public host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_hostname: Option<Line>,
    /// Name servers (ECS).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
    /// Time servers (ECS).
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
    /// Vendor data: text of 1 to 16,384 bytes.
    VendorData,
    |text| check_text(text, 1..=MAX_USER_DATA_BYTES, |_| true, "any characters")
);

text_type!(
    /// An OpenSSH public key: one line of type, base64 and comment.
    OpenSshKey,
    |text| {
        check_text(text, 16..=4096, |c| !c.is_control(), "one line")?;
        let mut fields = text.split(' ');
        let (kind, key) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix)) && key.starts_with("AAAA") {
            Ok(())
        } else {
            Err("must be an OpenSSH public key, such as \"ssh-ed25519 AAAA… comment\"".to_owned())
        }
    }
);

text_type!(
    /// The name of a public key: one path segment.
    KeyName,
    |text| check_text(text, 1..=128, |c| c.is_ascii_alphanumeric() || "-_.@+".contains(c), "letters, digits and -_.@+")
        .and_then(|()| if matches!(text, "." | "..") { Err("must not be a dot segment".to_owned()) } else { Ok(()) })
);

/// A public key of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicKey {
    /// The name.
    pub name: KeyName,
    /// The key.
    pub open_ssh_key: OpenSshKey,
}

/// Metadata mode of a hostNetwork pod. In a cluster, the mode has an effect if the node redirects such pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostNetwork {
    /// 403 on every path.
    Deny,
    /// The node's own metadata service.
    Node,
    /// Its own identity, like other pods.
    Pod,
}
