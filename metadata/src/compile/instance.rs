//! The properties of an instance: from the profile, else from the node, else from the cluster's settings.

use crate::compile::Settings;
use crate::compile::claims::{signed_account, signed_place};
use crate::dialect::Dialect;
use crate::facts::{Facts, NodeFacts};
use crate::item::{FieldPath, ItemText};
use crate::names::{InvalidValue, Line};
use crate::notice::Notices;
use crate::policy::EffectivePolicy;
use crate::profile::{InstanceSpec, LifeCycle, Network};
use crate::role::Role;
use crate::workload::{DialectPart, Instance, ItemValue};

/// Returns the value of a downward API field, or `None` if the pod does not have it.
pub(super) fn field_value(facts: &Facts, field: &FieldPath) -> Result<Option<ItemValue>, InvalidValue> {
    let metadata = &facts.pod.metadata;
    let addresses = || facts.node.as_ref().map(|node| node.status.addresses.as_slice()).unwrap_or_default();
    let text = match field {
        FieldPath::PodIp => return Ok(Some(ItemValue::PodIp)),
        FieldPath::PodIps => return Ok(Some(ItemValue::PodIps)),
        FieldPath::Name => Some(metadata.name.clone()),
        FieldPath::Namespace => Some(metadata.namespace.clone()),
        FieldPath::Uid => Some(metadata.uid.to_string()),
        FieldPath::Label(key) => metadata.labels.get(key).cloned(),
        FieldPath::Annotation(key) => metadata.annotations.get(key).cloned(),
        FieldPath::NodeName => facts.pod.spec.node_name.clone(),
        FieldPath::ServiceAccountName => facts.pod.spec.service_account_name.clone(),
        FieldPath::HostIp => addresses().first().map(ToString::to_string),
        FieldPath::HostIps => {
            let all = addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
            (!all.is_empty()).then(|| all.join(","))
        }
    };
    text.map(|text| ItemText::try_from(text).map(ItemValue::Text)).transpose()
}

/// Returns the properties in one dialect, without tags and items.
pub(super) fn part(
    facts: &Facts,
    spec: &InstanceSpec,
    dialect: Dialect,
    role: Option<Role>,
    rules: &EffectivePolicy<'_>,
    settings: &Settings,
) -> DialectPart {
    let uid = facts.pod.runtime_uid().as_str();
    let image = facts.pod.spec.image.as_str();
    let configured_image_id = spec.image_id.as_ref().map(ToString::to_string);
    let protocol = dialect.protocol();
    let (instance_id, image_id) = (protocol.instance_id(uid), protocol.image_id(image));
    let account =
        role.as_ref().and_then(Role::account).or_else(|| spec.account_id.clone()).or_else(|| settings.account.clone());
    DialectPart {
        account,
        signed_account: signed_account(role.as_ref(), spec, rules, settings),
        instance_id,
        image_id: configured_image_id.unwrap_or(image_id),
        role,
        tags: Vec::new(),
        items: Vec::new(),
    }
}

/// Returns the properties that are the same in all dialects.
pub(super) fn instance(
    facts: &Facts,
    spec: &InstanceSpec,
    rules: &EffectivePolicy<'_>,
    settings: &Settings,
) -> Instance {
    let (pod, node) = (&facts.pod, facts.node.as_ref());
    let label = |key: &str| node.and_then(|node| node.label(key)).map(str::to_owned);
    let or_label = |value: &Option<Line>, key: &str| value.as_ref().map(ToString::to_string).or_else(|| label(key));
    Instance {
        region: or_label(&spec.region, "topology.kubernetes.io/region").or_else(|| settings.region.clone()),
        zone: or_label(&spec.availability_zone, "topology.kubernetes.io/zone"),
        signed: signed_place(facts, spec, rules, settings),
        service_account: pod.spec.service_account_name.clone(),
        zone_id: or_label(&spec.availability_zone_id, "topology.k8s.aws/zone-id"),
        instance_type: or_label(&spec.instance_type, "node.kubernetes.io/instance-type"),
        life_cycle: spec.life_cycle.or_else(|| node.map(life_cycle)),
        architecture: label("kubernetes.io/arch").map(|arch| match arch.as_str() {
            "amd64" => "x86_64".to_owned(),
            "386" => "i386".to_owned(),
            _ => arch,
        }),
        hostname: pod.hostname().to_owned(),
        fqdn: pod.spec.subdomain.as_ref().map(|subdomain| {
            format!("{}.{subdomain}.{}.svc.{}", pod.hostname(), pod.metadata.namespace, settings.cluster_domain)
        }),
        hostname_suffix: settings.hostname_suffix.clone(),
        launch_index: pod.ordinal().unwrap_or(0),
        launched: pod.metadata.creation_timestamp,
        reservation: match &pod.metadata.controller {
            Some(controller) => controller.uid.clone(),
            None => pod.metadata.uid.to_string(),
        },
        owned: pod.metadata.controller.is_some(),
        network: network(facts, &spec.network),
        vendor_data: spec.vendor_data.clone(),
        public_keys: Vec::new(),
        user_data: None,
        notices: Notices::from_facts(facts),
    }
}

/// Returns the purchasing option from the capacity-type label of Karpenter, EKS or ACK. Default: on demand.
fn life_cycle(node: &NodeFacts) -> LifeCycle {
    let capacity =
        ["karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType", "node.alibabacloud.com/spot-strategy"]
            .iter()
            .find_map(|key| node.label(key));
    match capacity {
        Some("spot" | "SPOT" | "SpotAsPriceGo" | "SpotWithPriceLimit") => LifeCycle::Spot,
        Some("capacity-block" | "CAPACITY_BLOCK") => LifeCycle::CapacityBlock,
        Some(_) | None => LifeCycle::OnDemand,
    }
}

/// Returns the profile's network properties. The node's pod ranges are the default of the subnet.
fn network(facts: &Facts, spec: &Network) -> Network {
    let mut network = spec.clone();
    let ranges = facts.node.as_ref().map(|node| node.spec.pod_cidrs.as_slice()).unwrap_or_default();
    if network.subnet_ipv4_cidr_block.is_none() {
        network.subnet_ipv4_cidr_block = ranges.iter().find_map(|range| match range {
            ipnet::IpNet::V4(range) => Some(range.trunc()),
            ipnet::IpNet::V6(_) => None,
        });
    }
    if network.subnet_ipv6_cidr_blocks.is_empty() {
        network.subnet_ipv6_cidr_blocks = ranges
            .iter()
            .filter_map(|range| match range {
                ipnet::IpNet::V4(_) => None,
                ipnet::IpNet::V6(range) => Some(range.trunc()),
            })
            .collect();
    }
    network
}
