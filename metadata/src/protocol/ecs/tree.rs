//! The ECS tree of a pod: its items and their values. Both versions serve the same tree. docs/coverage.md lists the items
//! that a pod cannot have. `placement.rs` lists the paths again, for the check of a profile's items.

use serde_json::{Map, Value as Json};

use crate::dialect::Dialect;
use crate::identity::{IdKind, alphanumeric_id};
use crate::protocol::ecs::document;
use crate::time::rfc3339;
use crate::tree::{DocumentForm, LeafValue, SinceVersion, Tree, TreeBuilder};
use crate::workload::{DialectPart, Instance, Link, UserData, Workload};

/// All version prefixes, oldest first. Source: cloud-init's documentation of the AliYun data source.
pub const PREFIXES: [&str; 2] = ["2016-01-01", "latest"];

/// The version of every item.
pub const ALWAYS: SinceVersion = SinceVersion(0);

/// The directory of the role.
const CREDENTIALS: &str = "meta-data/ram/security-credentials";

/// Renders the tree. Returns `None` if the pod does not have this dialect.
pub(super) fn render(workload: &Workload, link: &Link) -> Option<Tree> {
    let part = workload.part(Dialect::Ecs)?;
    let mut tree = own_leaves(workload, part, link);
    tree.add_profile_items(part, link);
    let all = all_json(&tree);
    tree.add_unlisted_leaf(ALWAYS, "meta-data/all", LeafValue::Text(all.into()));
    if let Some(role) = &part.role {
        tree.add_leaf(ALWAYS, format!("{CREDENTIALS}/{}", role.name), LeafValue::Credentials);
    }
    Some(tree.build())
}

/// Returns the line of a directory in the listing of its parent. In the listings of a version and of `dynamic`, it has no
/// trailing slash.
/// Source: a console log in chef/chef#11004, and an article of Alibaba Cloud (594351).
fn directory_line(parent: &str, name: &str) -> String {
    if matches!(parent, "" | "dynamic") { name.to_owned() } else { format!("{name}/") }
}

/// Adds all leaves, except the items of the profile, the role and `all`.
fn own_leaves(workload: &Workload, part: &DialectPart, link: &Link) -> TreeBuilder {
    let instance = &workload.instance;
    let mut tree = TreeBuilder::new(directory_line);
    tree.set_listing_line(ALWAYS, "user-data", "user-data"); // listed even if it is 404
    match &instance.user_data {
        Some(UserData::Bytes(bytes)) => tree.add_leaf(ALWAYS, "user-data", LeafValue::UserData(bytes.clone())),
        Some(UserData::Secret(key)) => tree.add_leaf(ALWAYS, "user-data", LeafValue::SecretUserData(key.clone())),
        None => {}
    }
    if let Some(data) = &instance.vendor_data {
        tree.add_leaf(ALWAYS, "vendor-data", LeafValue::UserData(data.to_string().into()));
    }
    add_general_items(&mut tree, workload, part, link);
    add_addresses(&mut tree, instance, link);
    add_interface(&mut tree, workload, link);
    for (key, value) in &part.tags {
        tree.add_text(ALWAYS, format!("meta-data/tags/instance/{key}"), value.as_str());
    }
    let documents = [DocumentForm::Document, DocumentForm::Pkcs7].into_iter();
    for item in documents.filter(|_| workload.documented_part(Dialect::Ecs).is_some()) {
        if let Some(name) = document::name(item) {
            tree.add_leaf(ALWAYS, format!("dynamic/instance-identity/{name}"), LeafValue::Document(item));
        }
    }
    tree
}

fn add_general_items(tree: &mut TreeBuilder, workload: &Workload, part: &DialectPart, link: &Link) {
    let instance = &workload.instance;
    tree.add_text(ALWAYS, "meta-data/hostname", instance.fqdn.as_deref().unwrap_or(&instance.hostname));
    tree.add_text(ALWAYS, "meta-data/image-id", part.image_id.as_str());
    tree.add_text(ALWAYS, "meta-data/instance-id", part.instance_id.as_str());
    tree.add_text(ALWAYS, "meta-data/instance/instance-name", workload.pod.name.as_str());
    tree.add_optional_text(ALWAYS, "meta-data/instance/instance-type", instance.instance_type.as_deref());
    tree.add_text(ALWAYS, "meta-data/instance/virtualization-solution", "ECS Virt");
    tree.add_text(ALWAYS, "meta-data/instance/virtualization-solution-version", "2.0");
    tree.add_optional_text(
        ALWAYS,
        "meta-data/instance/spot/termination-time",
        instance.notices.interruption.map(rfc3339),
    );
    tree.add_text(ALWAYS, "meta-data/launch-index", instance.launch_index.to_string());
    tree.add_text(ALWAYS, "meta-data/mac", instance.mac(link).to_string());
    tree.add_text(ALWAYS, "meta-data/network-type", "vpc");
    tree.add_optional_text(ALWAYS, "meta-data/owner-account-id", part.account.as_ref().map(ToString::to_string));
    tree.add_optional_text(ALWAYS, "meta-data/region-id", instance.region.as_deref());
    tree.add_text(ALWAYS, "meta-data/serial-number", document::serial_number(workload));
    tree.add_optional_text(ALWAYS, "meta-data/zone-id", instance.zone.as_deref());
    for key in &instance.public_keys {
        tree.add_text(ALWAYS, format!("meta-data/public-keys/{}/openssh-key", key.name), key.open_ssh_key.as_str());
    }
}

fn add_addresses(tree: &mut TreeBuilder, instance: &Instance, link: &Link) {
    let network = &instance.network;
    let public = network.public_ipv4.map(|address| address.to_string());
    tree.add_optional_text(ALWAYS, "meta-data/eipv4", public.clone());
    tree.add_optional_text(ALWAYS, "meta-data/public-ipv4", public);
    tree.add_optional_text(ALWAYS, "meta-data/private-ipv4", link.ipv4.first().map(ToString::to_string));
    // It exists and is empty if there is no secondary address.
    let secondary = link.ipv4.iter().skip(1).map(ToString::to_string).collect::<Vec<_>>();
    tree.add_text(ALWAYS, "meta-data/sub-private-ipv4-list", secondary.join("\n"));
    tree.add_optional_text(ALWAYS, "meta-data/dns-conf/nameservers", join_with_crlf(&network.nameservers));
    tree.add_optional_text(ALWAYS, "meta-data/ntp-conf/ntp-servers", join_with_crlf(&network.ntp_servers));
}

fn add_interface(tree: &mut TreeBuilder, workload: &Workload, link: &Link) {
    let network = &workload.instance.network;
    let mac = workload.instance.mac(link);
    let at = |name: &str| format!("meta-data/network/interfaces/macs/{mac}/{name}");
    let id = alphanumeric_id("eni-", IdKind::Interface, workload.pod.uid.as_str(), 20);
    tree.add_text(ALWAYS, at("network-interface-id"), id);
    tree.add_optional_text(ALWAYS, at("primary-ip-address"), link.ipv4.first().map(ToString::to_string));
    if !link.ipv4.is_empty() {
        let quoted = link.ipv4.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>();
        tree.add_text(ALWAYS, at("private-ipv4s"), format!("[{}]", quoted.join(",")));
    }
    tree.add_optional_text(ALWAYS, at("gateway"), network.ipv4_gateway.map(|address| address.to_string()));
    tree.add_optional_text(ALWAYS, at("ipv6-gateway"), network.ipv6_gateway.map(|address| address.to_string()));
    tree.add_lines(ALWAYS, at("ipv4-prefixes"), &network.ipv4_prefixes);
    tree.add_lines(ALWAYS, at("ipv6-prefixes"), &network.ipv6_prefixes);
    tree.add_optional_text(ALWAYS, at("ipv6s"), join_unquoted(&link.ipv6));
    let subnet = network.subnet_ipv4_cidr_block.filter(|_| !link.ipv4.is_empty());
    tree.add_optional_text(ALWAYS, at("netmask"), subnet.map(|block| block.netmask().to_string()));
    for (place, value) in [
        ("vpc-id", network.vpc_id.as_ref().map(ToString::to_string)),
        ("vpc-cidr-block", network.vpc_ipv4_cidr_blocks.first().map(ToString::to_string)),
        ("vswitch-id", network.subnet_id.as_ref().map(ToString::to_string)),
        ("vswitch-cidr-block", subnet.map(|block| block.to_string())),
    ] {
        tree.add_optional_text(ALWAYS, at(place), value.clone());
        tree.add_optional_text(ALWAYS, format!("meta-data/{place}"), value);
    }
    tree.add_optional_text(ALWAYS, at("vpc-ipv6-cidr-blocks"), join_unquoted(&network.vpc_ipv6_cidr_blocks));
    let subnet = network.subnet_ipv6_cidr_blocks.first().map(ToString::to_string);
    tree.add_optional_text(ALWAYS, at("vswitch-ipv6-cidr-block"), subnet);
}

/// Joins values with CR LF, as ECS does for name and time servers.
fn join_with_crlf<T: ToString>(values: &[T]) -> Option<String> {
    (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect::<Vec<_>>().join("\r\n"))
}

/// Joins values in brackets without quotes, as ECS does for IPv6 addresses.
fn join_unquoted<T: ToString>(values: &[T]) -> Option<String> {
    (!values.is_empty()).then(|| format!("[{}]", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")))
}

/// Returns `meta-data/all`: the tree as one JSON object whose leaves are strings. It has no credentials.
fn all_json(tree: &TreeBuilder) -> String {
    let mut all = Map::new();
    for (path, text) in tree.text_leaves() {
        let Some(path) = path.strip_prefix("meta-data/") else { continue };
        insert(&mut all, path, String::from_utf8_lossy(text).into_owned());
    }
    Json::Object(all).to_string()
}

fn insert(object: &mut Map<String, Json>, path: &str, text: String) {
    match path.split_once('/') {
        None => drop(object.insert(path.to_owned(), Json::from(text))),
        Some((directory, rest)) => {
            if let Json::Object(below) = object.entry(directory).or_insert_with(|| Json::Object(Map::new())) {
                insert(below, rest, text);
            }
        }
    }
}
