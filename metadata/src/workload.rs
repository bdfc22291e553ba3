//! The compiled pod. The operator sends it to the node agents, which save it in their state file and render trees from it.

mod base64_bytes;
mod dialect_parts;
mod link;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::item::{ItemPath, ItemText};
use crate::names::{AccountId, PodUid};
use crate::notice::Notices;
use crate::options::{Limits, MetadataOptions, ProcessUsers};
use crate::profile::{KeyRef, LifeCycle, Network, ProfileRef, PublicKey, VendorData};
use crate::role::Role;

pub use link::{Link, MacAddress};

/// Maximum length of the JSON of a workload, in bytes. The operator denies a pod with a longer one. The documented limits of
/// user data, items and tags fit. 250 such pods of a node take 32 MiB.
pub const MAX_WORKLOAD_BYTES: usize = 128 * 1024;

/// The data from which a node agent serves one pod: identity, options, limits, and the content of its trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The pod.
    pub pod: PodRef,
    /// The profile that it was compiled from. `None` if no profile matches and a policy allows facts.
    pub profile: Option<ProfileRef>,
    /// The instance metadata options.
    pub options: MetadataOptions,
    /// The limits.
    pub limits: Limits,
    /// The users whose processes may send requests.
    pub users: ProcessUsers,
    /// The identity documents.
    #[serde(default)]
    pub documents: IdentityDocuments,
    /// The properties of the instance, in all dialects.
    pub instance: Instance,
    /// Data that differs between dialects: one entry for each dialect that the pod has.
    #[serde(flatten, with = "dialect_parts")]
    pub dialects: BTreeMap<Dialect, DialectPart>,
}

impl Workload {
    /// Returns the part of a dialect, or `None` if the pod does not have the dialect.
    #[must_use]
    pub fn part(&self, dialect: Dialect) -> Option<&DialectPart> {
        self.dialects.get(&dialect)
    }

    /// Returns the part of a dialect, or `None` if the pod has no identity document in the dialect.
    #[must_use]
    pub fn documented_part(&self, dialect: Dialect) -> Option<&DialectPart> {
        match self.documents {
            IdentityDocuments::Signed => self.part(dialect),
            IdentityDocuments::Absent => None,
        }
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

/// The identity documents of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityDocuments {
    /// Every dialect has its documents, signed by the operator.
    #[default]
    Signed,
    /// The pod has none, because the operator cannot verify its facts.
    Absent,
}

/// A reference to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: PodUid,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The properties of the instance that are the same in all dialects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The region.
    pub region: Option<String>,
    /// The zone.
    pub zone: Option<String>,
    /// The region and zone of the signed identity document.
    #[serde(default)]
    pub signed: SignedPlace,
    /// The pod's ServiceAccount, if the pod names one.
    #[serde(default)]
    pub service_account: Option<String>,
    /// The zone ID.
    pub zone_id: Option<String>,
    /// The instance type.
    pub instance_type: Option<String>,
    /// The purchasing option of the node.
    pub life_cycle: Option<LifeCycle>,
    /// The processor architecture in EC2's notation (`x86_64`, `arm64`, `i386`).
    pub architecture: Option<String>,
    /// The pod's host name, without a domain.
    pub hostname: String,
    /// The DNS name of the pod, if Kubernetes resolves one.
    pub fqdn: Option<String>,
    /// The domain of host names that are made from an address. Default: the cloud's own domain.
    pub hostname_suffix: Option<String>,
    /// The ordinal of a StatefulSet's pod, or 0.
    pub launch_index: u32,
    /// The creation time of the pod.
    pub launched: Timestamp,
    /// The UID of the pod's controller, or of the pod. Pods of one controller have one reservation.
    pub reservation: String,
    /// True if a controller owns the pod, as an Auto Scaling group owns an instance.
    pub owned: bool,
    /// The network properties.
    pub network: Network,
    /// The SSH public keys.
    pub public_keys: Vec<PublicKey>,
    /// The user data.
    pub user_data: Option<UserData>,
    /// Vendor data (ECS).
    #[serde(default)]
    pub vendor_data: Option<VendorData>,
    /// The interruption notices.
    pub notices: Notices,
}

impl Instance {
    /// Returns the MAC address in the tree: of the profile, else of the link. Identity documents have the link's.
    #[must_use]
    pub fn mac(&self, link: &Link) -> MacAddress {
        self.network.mac.unwrap_or(link.mac)
    }
}

/// The region and zone of the signed identity document. A profile cannot set them unless a policy allows its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedPlace {
    /// The region.
    pub region: Option<String>,
    /// The zone.
    pub zone: Option<String>,
}

/// User data of a compiled pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UserData {
    /// The bytes.
    Bytes(#[serde(with = "base64_bytes")] bytes::Bytes),
    /// A key of a Secret. Its value is requested from the broker for each request, and not saved.
    Secret(KeyRef),
}

/// The properties of the instance in one dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DialectPart {
    /// The cloud account of the role, else of the profile, else of the cluster.
    pub account: Option<AccountId>,
    /// The account of the signed identity document.
    #[serde(default)]
    pub signed_account: Option<AccountId>,
    /// The instance ID.
    pub instance_id: String,
    /// The image ID.
    pub image_id: String,
    /// The role.
    pub role: Option<Role>,
    /// The tags, sorted by key.
    pub tags: Vec<(String, String)>,
    /// The items of the profile.
    pub items: Vec<(ItemPath, ItemValue)>,
}

/// The value of an item. Only the node knows the pod's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemValue {
    /// Text.
    Text(ItemText),
    /// The first address of the pod.
    PodIp,
    /// All addresses of the pod, separated by commas, as in the downward API.
    PodIps,
}
