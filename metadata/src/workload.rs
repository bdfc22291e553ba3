//! What one pod is served: the small, serialisable outcome of compiling its facts with its profile. It travels from the
//! operator to the agents and is their state file; the trees are rendered from it where they are served.

mod dialect_parts;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::identity;
use crate::item::{ItemPath, ItemText};
use crate::names::{AccountId, PodUid};
use crate::notice::Notices;
use crate::options::{Limits, MetadataOptions, ProcessUsers};
use crate::profile::{KeyRef, LifeCycle, Network, ProfileRef, PublicKey};
use crate::role::Role;

/// Everything that is served to one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The pod.
    pub pod: PodRef,
    /// The profile that it was compiled from; none if a policy gives pods without one their facts.
    pub profile: Option<ProfileRef>,
    /// How the pod may ask.
    pub options: MetadataOptions,
    /// How much it may ask.
    pub limits: Limits,
    /// Who in it may ask.
    pub users: ProcessUsers,
    /// What it is, in every dialect.
    pub instance: Instance,
    /// What differs between its dialects: one entry for each dialect that the pod has.
    #[serde(flatten, with = "dialect_parts")]
    pub dialects: BTreeMap<Dialect, DialectPart>,
}

impl Workload {
    /// Returns what is specific to a dialect, or `None` if the pod does not have the dialect.
    #[must_use]
    pub fn part(&self, dialect: Dialect) -> Option<&DialectPart> {
        self.dialects.get(&dialect)
    }

    /// Returns the role of a dialect.
    #[must_use]
    pub fn role(&self, dialect: Dialect) -> Option<&Role> {
        self.part(dialect)?.role.as_ref()
    }

    /// Iterates over all roles, by dialect.
    pub fn roles(&self) -> impl Iterator<Item = (Dialect, &Role)> {
        self.dialects.iter().filter_map(|(dialect, part)| Some((*dialect, part.role.as_ref()?)))
    }
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: PodUid,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the pod is as an instance, whatever the dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The region.
    pub region: Option<String>,
    /// The zone.
    pub zone: Option<String>,
    /// The zone's id.
    pub zone_id: Option<String>,
    /// The instance type.
    pub instance_type: Option<String>,
    /// The purchasing option of the node.
    pub life_cycle: Option<LifeCycle>,
    /// The processor architecture in EC2's words (`x86_64`, `arm64`, `i386`).
    pub architecture: Option<String>,
    /// The pod's own host name, without a domain.
    pub hostname: String,
    /// The name that Kubernetes resolves to the pod, if it has one.
    pub fqdn: Option<String>,
    /// The domain of names that are made of an address, if it is not the cloud's own.
    pub hostname_suffix: Option<String>,
    /// A StatefulSet's ordinal, or 0.
    pub launch_index: u32,
    /// When the pod was made.
    pub launched: Timestamp,
    /// What the pods of one controller have in common: its UID, or the pod's own.
    pub reservation: String,
    /// Whether a controller owns the pod, as an Auto Scaling group owns an instance.
    pub owned: bool,
    /// Network items.
    pub network: Network,
    /// SSH public keys.
    pub public_keys: Vec<PublicKey>,
    /// User data.
    pub user_data: Option<UserData>,
    /// What is about to happen to it.
    pub notices: Notices,
}

/// User data as the agent gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserData {
    /// The bytes.
    Bytes(#[serde(with = "base64_bytes")] bytes::Bytes),
    /// A key of a Secret, which is asked for when it is served and never written down.
    Secret(KeyRef),
}

/// What differs between the dialects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DialectPart {
    /// The cloud account: the role's, else the profile's, else the cluster's.
    pub account: Option<AccountId>,
    /// The instance id.
    pub instance_id: String,
    /// The image id.
    pub image_id: String,
    /// The role.
    pub role: Option<Role>,
    /// Tags, by key.
    pub tags: Vec<(String, String)>,
    /// Items of the profile.
    pub items: Vec<(ItemPath, ItemValue)>,
}

/// An item's value; an address is known on the node alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemValue {
    /// The value.
    Text(ItemText),
    /// The pod's first address.
    PodIp,
    /// All its addresses, with commas between, as the downward API writes them.
    PodIps,
}

/// What only the node knows of a pod: its addresses and MAC, from the CNI result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its IPv4 addresses, the primary one first.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses, the primary one first.
    pub ipv6: Vec<Ipv6Addr>,
    /// Its MAC address.
    pub mac: MacAddress,
}

impl Link {
    /// The link of a pod of which only its addresses are known.
    #[must_use]
    pub fn from_addresses(pod: &PodUid, addresses: &[IpAddr]) -> Self {
        let mut link = Self { ipv4: Vec::new(), ipv6: Vec::new(), mac: MacAddress::from_uid(pod) };
        for address in addresses {
            match address {
                IpAddr::V4(address) => link.ipv4.push(*address),
                IpAddr::V6(address) => link.ipv6.push(*address),
            }
        }
        link
    }

    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.ipv4.iter().map(ToString::to_string).chain(self.ipv6.iter().map(ToString::to_string))
    }
}

/// A MAC address, shown in lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of a pod whose CNI gives none: made of its UID, so that it is stable.
    #[must_use]
    pub fn from_uid(uid: &PodUid) -> Self {
        Self(identity::mac(uid.as_str()))
    }
}

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Bytes as base64 text in JSON.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}
