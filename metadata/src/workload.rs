//! The compiled pod. The operator sends it to the node agents, which save it in their state file and render trees from it.

mod dialect_parts;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::identity;
use crate::item::{ItemPath, ItemText};
use crate::names::{AccountId, InvalidValue, PodUid};
use crate::notice::Notices;
use crate::options::{Limits, MetadataOptions, ProcessUsers};
use crate::profile::{KeyRef, LifeCycle, Network, ProfileRef, PublicKey, VendorData};
use crate::role::Role;

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

/// The network link of a pod, from the CNI result on its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The IPv4 addresses, the primary one first.
    pub ipv4: Vec<Ipv4Addr>,
    /// The IPv6 addresses, the primary one first.
    pub ipv6: Vec<Ipv6Addr>,
    /// The MAC address.
    pub mac: MacAddress,
}

impl Link {
    /// Returns the link of a pod with these addresses, and a MAC address that is made from its UID.
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

    /// Iterates over all addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.ipv4.iter().map(ToString::to_string).chain(self.ipv6.iter().map(ToString::to_string))
    }
}

/// A MAC address. Its text form is lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Returns the MAC address of a pod whose CNI result has none. It is a hash of the UID.
    #[must_use]
    pub fn from_uid(uid: &PodUid) -> Self {
        Self(identity::mac(uid.as_str()))
    }

    fn invalid() -> InvalidValue {
        InvalidValue("must be a unicast MAC address in lower case, such as 02:00:00:aa:bb:cc".to_owned())
    }
}

impl std::str::FromStr for MacAddress {
    type Err = InvalidValue;

    /// Parses the text form of a unicast address.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let is_lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.chars().all(is_lower_hex));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(MacAddress::invalid)?;
        }
        let is_unicast = bytes[0] & 1 == 0;
        if parts.next().is_none() && is_unicast { Ok(Self(bytes)) } else { Err(Self::invalid()) }
    }
}

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Bytes, as a base64 string in JSON.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_address_is_parsed_in_its_text_form_only() {
        let mac = "02:00:00:aa:bb:cc".parse::<MacAddress>().unwrap();
        assert_eq!((mac, mac.to_string().as_str()), (MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]), "02:00:00:aa:bb:cc"));
        for bad in [
            "",
            "02:00:00:aa:bb",
            "02:00:00:aa:bb:cc:dd",
            "02:00:00:AA:bb:cc",
            "02-00-00-aa-bb-cc",
            "2:0:0:aa:bb:cc",
            "02:00:00:aa:bb:+c",
            "01:00:5e:00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was accepted");
        }
    }
}
