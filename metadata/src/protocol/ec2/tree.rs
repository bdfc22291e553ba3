//! The EC2 tree of a pod: its items, their first version, and their values. docs/coverage.md lists all items, and
//! those that a pod cannot have. `placement.rs` lists the paths again, for the check of a profile's items.

use serde_json::Value as Json;

use crate::dialect::Dialect;
use crate::identity::{IdKind, alphanumeric_id, ec2_id};
use crate::options::InstanceMetadataTags;
use crate::protocol::ec2::document;
use crate::protocol::ec2::json::object;
use crate::protocol::ec2::version as v;
use crate::time::rfc3339;
use crate::tree::{DocumentForm, LeafValue, Tree, TreeBuilder};
use crate::workload::{DialectPart, Instance, Link, UserData, Workload};

/// The directory of the role.
const CREDENTIALS: &str = "meta-data/iam/security-credentials";

/// Renders the tree. Returns `None` if the pod does not have this dialect.
pub(super) fn render(workload: &Workload, link: &Link) -> Option<Tree> {
    let part = workload.part(Dialect::Ec2)?;
    let mut tree = own_leaves(workload, part, link);
    tree.add_profile_items(part, link);
    Some(tree.build())
}

/// Returns the line of a directory in the listing of its parent. Only in the listing of a version, it has no trailing slash.
fn directory_line(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{name}/") }
}

/// Adds all leaves, except the items of the profile.
fn own_leaves(workload: &Workload, part: &DialectPart, link: &Link) -> TreeBuilder {
    let instance = &workload.instance;
    let mut tree = TreeBuilder::new(directory_line);
    tree.set_listing_line(v::V1_0, "user-data", "user-data"); // listed even if it is 404
    match &instance.user_data {
        Some(UserData::Bytes(bytes)) => tree.add_leaf(v::V1_0, "user-data", LeafValue::UserData(bytes.clone())),
        Some(UserData::Secret(key)) => tree.add_leaf(v::V1_0, "user-data", LeafValue::SecretUserData(key.clone())),
        None => {}
    }
    add_general_items(&mut tree, instance, part, link);
    add_events(&mut tree, instance);
    add_credentials(&mut tree, instance, part);
    add_interface(&mut tree, workload, part, link);
    add_placement(&mut tree, instance);
    add_tags(&mut tree, workload, part);
    add_dynamic_items(&mut tree, workload);
    tree
}

/// Adds the tags one by one, and all of them as one JSON object, which exists without tags too.
fn add_tags(tree: &mut TreeBuilder, workload: &Workload, part: &DialectPart) {
    for (key, value) in &part.tags {
        tree.add_text(v::V2021_03_23, format!("meta-data/tags/instance/{key}"), value.as_str());
    }
    if workload.options.instance_metadata_tags == InstanceMetadataTags::Enabled {
        let all = part.tags.iter().map(|(key, value)| (key.clone(), Json::from(value.as_str()))).collect();
        tree.add_text(v::V2025_10_04, "meta-data/tag-sets/instance", Json::Object(all).to_string());
    }
}

fn add_general_items(tree: &mut TreeBuilder, instance: &Instance, part: &DialectPart, link: &Link) {
    let hostname = hostname(instance, part, link);
    tree.add_text(v::V1_0, "meta-data/ami-id", part.image_id.as_str());
    tree.add_text(v::V1_0, "meta-data/ami-launch-index", instance.launch_index.to_string());
    tree.add_text(v::V1_0, "meta-data/ami-manifest-path", "(unknown)");
    // The EBS CSI driver fails without them.
    tree.add_text(v::V2007_12_15, "meta-data/block-device-mapping/ami", "xvda");
    tree.add_text(v::V2007_12_15, "meta-data/block-device-mapping/root", "/dev/xvda");
    tree.add_text(v::V1_0, "meta-data/hostname", hostname.as_str());
    tree.add_text(v::V2008_09_01, "meta-data/instance-action", "none");
    tree.add_text(v::V1_0, "meta-data/instance-id", part.instance_id.as_str());
    tree.add_optional_text(
        v::V2019_10_01,
        "meta-data/instance-life-cycle",
        instance.life_cycle.map(|cycle| cycle.as_str()),
    );
    tree.add_optional_text(v::V2007_08_29, "meta-data/instance-type", instance.instance_type.as_deref());
    tree.add_optional_text(v::V2021_01_03, "meta-data/ipv6", link.ipv6.first().map(ToString::to_string));
    tree.add_text(v::V2007_01_19, "meta-data/local-hostname", hostname);
    tree.add_optional_text(v::V1_0, "meta-data/local-ipv4", link.ipv4.first().map(ToString::to_string));
    tree.add_text(v::V2011_01_01, "meta-data/mac", instance.mac(link).to_string());
    tree.add_text(v::V2011_05_01, "meta-data/metrics/vhostmd", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    tree.add_text(v::V2007_12_15, "meta-data/profile", "default-hvm");
    for (index, key) in instance.public_keys.iter().enumerate() {
        tree.set_listing_line(v::V1_0, format!("meta-data/public-keys/{index}"), format!("{index}={}", key.name));
        tree.add_text(v::V1_0, format!("meta-data/public-keys/{index}/openssh-key"), format!("{}\n", key.open_ssh_key));
    }
    tree.add_text(v::V1_0, "meta-data/reservation-id", ec2_id("r", IdKind::Reservation, &instance.reservation));
    let (domain, partition) = partition(instance);
    tree.add_text(v::V2014_02_25, "meta-data/services/domain", domain);
    tree.add_text(v::V2015_10_20, "meta-data/services/partition", partition);
    tree.add_text(v::V2022_09_24, "meta-data/system", "nitro");
}

fn add_events(tree: &mut TreeBuilder, instance: &Instance) {
    tree.add_text(v::V2018_08_17, "meta-data/events/maintenance/history", "[]");
    tree.add_text(v::V2018_08_17, "meta-data/events/maintenance/scheduled", "[]");
    let notices = &instance.notices;
    if let Some(since) = notices.rebalance {
        let notice = format!("{{\"noticeTime\": \"{}\"}}", rfc3339(since));
        tree.add_text(v::V2020_10_27, "meta-data/events/recommendations/rebalance", notice);
    }
    if let Some(end) = notices.interruption {
        let action = format!("{{\"action\": \"terminate\", \"time\": \"{}\"}}", rfc3339(end));
        tree.add_text(v::V2016_11_15, "meta-data/spot/instance-action", action);
        tree.add_text(v::V2014_11_05, "meta-data/spot/termination-time", rfc3339(end));
    }
    let state = match notices.interruption {
        Some(_) => Some("Terminated"),
        None => instance.owned.then_some("InService"),
    };
    tree.add_optional_text(v::V2021_07_15, "meta-data/autoscaling/target-lifecycle-state", state);
}

fn add_credentials(tree: &mut TreeBuilder, instance: &Instance, part: &DialectPart) {
    let launched = rfc3339(instance.launched);
    if let Some(account) = &part.account {
        let info = object(&[
            ("Code", Some("Success")),
            ("LastUpdated", Some(&launched)),
            ("AccountId", Some(account.as_str())),
        ]);
        tree.add_text(v::V2018_03_28, "meta-data/identity-credentials/ec2/info", info);
    }
    let Some(role) = &part.role else { return };
    tree.add_leaf(v::V2012_01_12, format!("{CREDENTIALS}/{}", role.name), LeafValue::Credentials);
    if let Some(account) = &part.account {
        // Clients take the last segment of the ARN as the role's name, so the instance profile has the same name.
        let arn = format!("arn:{}:iam::{account}:instance-profile/{}", partition(instance).1, role.name);
        let id = alphanumeric_id("AIPA", IdKind::InstanceProfile, &arn, 17).to_uppercase();
        let info = object(&[
            ("Code", Some("Success")),
            ("LastUpdated", Some(&launched)),
            ("InstanceProfileArn", Some(&arn)),
            ("InstanceProfileId", Some(&id)),
        ]);
        tree.add_text(v::V2012_01_12, "meta-data/iam/info", info);
    }
}

fn add_interface(tree: &mut TreeBuilder, workload: &Workload, part: &DialectPart, link: &Link) {
    let (instance, network) = (&workload.instance, &workload.instance.network);
    let mac = instance.mac(link);
    let at = |name: &str| format!("meta-data/network/interfaces/macs/{mac}/{name}");
    let text = |list: &[crate::names::Line]| list.to_vec();
    tree.add_text(v::V2011_01_01, at("device-number"), "0");
    tree.add_text(v::V2011_01_01, at("interface-id"), ec2_id("eni", IdKind::Interface, workload.pod.uid.as_str()));
    tree.add_lines(v::V2011_01_01, at("ipv4-prefix"), &network.ipv4_prefixes); // EC2 documents no version
    tree.add_lines(v::V2011_01_01, at("ipv6-prefix"), &network.ipv6_prefixes);
    tree.add_lines(v::V2016_06_30, at("ipv6s"), &link.ipv6);
    tree.add_text(v::V2011_01_01, at("local-hostname"), hostname(instance, part, link));
    tree.add_lines(v::V2011_01_01, at("local-ipv4s"), &link.ipv4);
    tree.add_text(v::V2011_01_01, at("mac"), mac.to_string());
    tree.add_optional_text(v::V2011_01_01, at("owner-id"), part.account.as_ref().map(ToString::to_string));
    tree.add_lines(v::V2011_01_01, at("security-groups"), &text(&network.security_groups));
    tree.add_lines(v::V1_0, "meta-data/security-groups", &text(&network.security_groups));
    tree.add_lines(v::V2011_01_01, at("security-group-ids"), &text(&network.security_group_ids));
    tree.add_optional_text(v::V2011_01_01, at("subnet-id"), network.subnet_id.as_ref().map(ToString::to_string));
    let subnet = network.subnet_ipv4_cidr_block.filter(|_| !link.ipv4.is_empty());
    tree.add_optional_text(v::V2011_01_01, at("subnet-ipv4-cidr-block"), subnet.map(|block| block.to_string()));
    tree.add_lines(v::V2016_06_30, at("subnet-ipv6-cidr-blocks"), &network.subnet_ipv6_cidr_blocks);
    tree.add_optional_text(v::V2011_01_01, at("vpc-id"), network.vpc_id.as_ref().map(ToString::to_string));
    tree.add_optional_text(
        v::V2011_01_01,
        at("vpc-ipv4-cidr-block"),
        network.vpc_ipv4_cidr_blocks.first().map(ToString::to_string),
    );
    tree.add_lines(v::V2016_06_30, at("vpc-ipv4-cidr-blocks"), &network.vpc_ipv4_cidr_blocks);
    tree.add_lines(v::V2016_06_30, at("vpc-ipv6-cidr-blocks"), &network.vpc_ipv6_cidr_blocks);
    if let Some(public) = network.public_ipv4 {
        tree.add_text(v::V2007_01_19, "meta-data/public-ipv4", public.to_string());
        tree.add_text(v::V2011_01_01, at("public-ipv4s"), public.to_string());
        let private = link.ipv4.first().map(ToString::to_string);
        tree.add_optional_text(v::V2011_01_01, at(&format!("ipv4-associations/{public}")), private);
    }
    if let Some(name) = &network.public_hostname {
        tree.add_text(v::V2007_01_19, "meta-data/public-hostname", name.as_str());
        tree.add_text(v::V2011_01_01, at("public-hostname"), name.as_str());
    }
}

fn add_placement(tree: &mut TreeBuilder, instance: &Instance) {
    tree.add_optional_text(v::V2008_02_01, "meta-data/placement/availability-zone", instance.zone.as_deref());
    tree.add_optional_text(v::V2019_10_01, "meta-data/placement/availability-zone-id", instance.zone_id.as_deref());
    tree.add_optional_text(v::V2019_10_01, "meta-data/placement/region", instance.region.as_deref());
}

fn add_dynamic_items(tree: &mut TreeBuilder, workload: &Workload) {
    if workload.documented_part(Dialect::Ec2).is_none() {
        return;
    }
    for item in [DocumentForm::Document, DocumentForm::Signature, DocumentForm::Pkcs7, DocumentForm::Rsa2048] {
        let path = format!("dynamic/instance-identity/{}", document::name(item));
        tree.add_leaf(v::V2009_04_04, path, LeafValue::Document(item));
    }
}

/// Returns the DNS name of the pod, else a name in EC2's form that is made from its address.
fn hostname(instance: &Instance, part: &DialectPart, link: &Link) -> String {
    if let Some(fqdn) = &instance.fqdn {
        return fqdn.clone();
    }
    let name = match link.ipv4.first() {
        Some(address) => format!("ip-{}", address.to_string().replace('.', "-")),
        None => part.instance_id.clone(),
    };
    match (&instance.hostname_suffix, instance.region.as_deref()) {
        (Some(suffix), _) => format!("{name}.{suffix}"),
        (None, Some("us-east-1")) => format!("{name}.ec2.internal"),
        (None, Some(region)) => format!("{name}.{region}.compute.internal"),
        (None, None) => name,
    }
}

/// Returns the domain and the name of the region's partition.
fn partition(instance: &Instance) -> (&'static str, &'static str) {
    match instance.region.as_deref() {
        Some(region) if region.starts_with("cn-") => ("amazonaws.com.cn", "aws-cn"),
        Some(region) if region.starts_with("us-gov-") => ("amazonaws.com", "aws-us-gov"),
        Some(_) | None => ("amazonaws.com", "aws"),
    }
}
