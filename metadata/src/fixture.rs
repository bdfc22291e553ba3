//! Fixtures of the unit tests: a pod with a profile of default values. Each test sets the fields that it needs.

use std::collections::BTreeMap;

use crate::compile::{Compiled, ConfigMapValues, Outcome, Settings, compile};
use crate::dialect::Dialect;
use crate::facts::tests::facts;
use crate::facts::{Facts, NodeFacts, NodeMetadata, NodeSpec, NodeStatus};
use crate::finding::FindingReason;
use crate::item::{Item, ItemPath, ItemSource, ItemText};
use crate::names::{RoleArn, RoleName};
use crate::options::InstanceMetadataTags;
use crate::path::CanonicalPath;
use crate::policy::Policy;
use crate::profile::{Network, OpenSshKey, Profile, ProfileRef, PublicKey, UserDataSource};
use crate::protocol::Protocol;
use crate::role::{Provider, Role, SessionDuration};
use crate::tree::{LeafValue, Lookup, SinceVersion, Tree};
use crate::workload::{DialectPart, Link, MacAddress, Workload};

/// The input of a compilation: the pod `shop/web` and one profile, `own`.
pub(crate) struct Case {
    pub(crate) facts: Facts,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) config_map_values: ConfigMapValues,
    pub(crate) settings: Settings,
}

impl Case {
    pub(crate) fn new() -> Self {
        Self {
            facts: facts("shop", "web"),
            profiles: vec![profile("own")],
            policies: Vec::new(),
            config_map_values: ConfigMapValues::new(),
            settings: Settings::default(),
        }
    }

    /// Returns a pod with most fields that a tree shows. Items, vendor data, MAC address, gateways and
    /// prefixes are not set. The pod is being deleted.
    pub(crate) fn full() -> Self {
        let mut case = Self::new();
        let pod = &mut case.facts.pod;
        pod.metadata.labels = string_map(&[("team", "a")]);
        pod.metadata.deletion_timestamp = Some("2026-01-05T09:00:30Z".parse().unwrap());
        pod.status.disruption_target = Some("2026-01-05T09:00:00Z".parse().unwrap());
        case.on_node(&[
            ("topology.kubernetes.io/region", "eu-west-1"),
            ("topology.kubernetes.io/zone", "eu-west-1a"),
            ("topology.k8s.aws/zone-id", "euw1-az2"),
            ("node.kubernetes.io/instance-type", "m7i.large"),
            ("kubernetes.io/arch", "amd64"),
        ]);
        let own = case.profile_mut();
        own.options.instance_metadata_tags = InstanceMetadataTags::Enabled;
        own.tag_labels = vec!["*".try_into().unwrap()];
        own.instance.network = network();
        own.user_data = Some(UserDataSource::inline("#!/bin/sh".to_owned()).unwrap());
        let open_ssh_key = OpenSshKey::try_from("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me").unwrap();
        own.public_keys = vec![PublicKey { name: "my-key".try_into().unwrap(), open_ssh_key }];
        own.roles = [
            (Dialect::Ec2, web_identity("web-role", "arn:aws:iam::123456789012:role/team/web")),
            (Dialect::Ecs, aliyun_oidc("AppReaderRole", "acs:ram::1234567890123456:role/AppReaderRole")),
        ]
        .into();
        case
    }

    /// Returns the profile `own`.
    pub(crate) fn profile_mut(&mut self) -> &mut Profile {
        &mut self.profiles[0]
    }

    /// Sets the facts of the pod's node: the name `node-1` and these labels. Does not set `spec.nodeName` of the pod.
    pub(crate) fn on_node(&mut self, labels: &[(&str, &str)]) -> &mut NodeFacts {
        self.facts.node.insert(NodeFacts {
            metadata: NodeMetadata { name: "node-1".to_owned(), labels: string_map(labels) },
            spec: NodeSpec::default(),
            status: NodeStatus::default(),
        })
    }

    pub(crate) fn compile(&self) -> Compiled {
        compile(&self.facts, &self.profiles, &self.policies, &self.config_map_values, &self.settings)
    }

    /// Compiles the pod and returns its workload. Panics if the pod is not served.
    pub(crate) fn workload(&self) -> Workload {
        match self.compile().outcome {
            Outcome::Served(workload) => *workload,
            other => panic!("the pod is not served: {other:?}"),
        }
    }

    /// Returns the field and the reason of each finding.
    pub(crate) fn findings(&self) -> Vec<(String, FindingReason)> {
        self.compile().findings.into_iter().map(|finding| (finding.field, finding.reason)).collect()
    }
}

impl Workload {
    /// Returns the EC2 part of the workload.
    pub(crate) fn ec2(&self) -> DialectPart {
        self.part(Dialect::Ec2).cloned().unwrap()
    }

    /// Returns the ECS part of the workload.
    pub(crate) fn ecs(&self) -> DialectPart {
        self.part(Dialect::Ecs).cloned().unwrap()
    }
}

/// Returns a profile that matches every pod of the namespace `shop`, with default values, in all dialects.
pub(crate) fn profile(name: &str) -> Profile {
    let object = ProfileRef {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        generation: 1,
    };
    let bare = Profile::with_defaults(object, "2026-01-01T00:00:00Z".parse().unwrap());
    Profile { dialects: Dialect::ALL.into(), ..bare }
}

/// Returns a value for every network property, except MAC address, gateways and prefixes.
fn network() -> Network {
    Network {
        mac: None,
        ipv4_gateway: None,
        ipv6_gateway: None,
        ipv4_prefixes: Vec::new(),
        ipv6_prefixes: Vec::new(),
        vpc_id: Some("vpc-1".try_into().unwrap()),
        vpc_ipv4_cidr_blocks: ["10.0.0.0/16", "100.64.0.0/16"].map(|block| block.parse().unwrap()).into(),
        vpc_ipv6_cidr_blocks: vec!["2001:db8:10::/56".parse().unwrap()],
        subnet_id: Some("subnet-1".try_into().unwrap()),
        subnet_ipv4_cidr_block: Some("10.0.1.0/24".parse().unwrap()),
        subnet_ipv6_cidr_blocks: vec!["2001:db8:10::/64".parse().unwrap()],
        security_groups: ["web", "ssh"].map(|group| group.try_into().unwrap()).into(),
        security_group_ids: ["sg-1", "sg-2"].map(|group| group.try_into().unwrap()).into(),
        public_ipv4: Some("203.0.113.25".parse().unwrap()),
        public_hostname: Some("web.example".try_into().unwrap()),
        nameservers: ["100.100.2.136", "100.100.2.138"].map(|server| server.parse().unwrap()).into(),
        ntp_servers: ["ntp1.aliyun.com", "ntp1.cloud.aliyuncs.com"].map(|server| server.try_into().unwrap()).into(),
    }
}

/// Returns a role with a Secret as its provider.
pub(crate) fn secret_role(name: &str) -> Role {
    Role { name: RoleName::try_from(name).unwrap(), provider: Provider::Secret { name: "app-keys".to_owned() } }
}

/// Returns an EC2 role with the provider `awsWebIdentity`.
pub(crate) fn web_identity(name: &str, arn: &str) -> Role {
    Role {
        name: RoleName::try_from(name).unwrap(),
        provider: Provider::AwsWebIdentity {
            role_arn: RoleArn::try_from(arn).unwrap(),
            audience: "sts.amazonaws.com".try_into().unwrap(),
            duration: SessionDuration::HOUR,
        },
    }
}

/// Returns an ECS role with the provider `aliyunOidc`.
pub(crate) fn aliyun_oidc(name: &str, arn: &str) -> Role {
    Role {
        name: RoleName::try_from(name).unwrap(),
        provider: Provider::AliyunOidc {
            role_arn: RoleArn::try_from(arn).unwrap(),
            oidc_provider_arn: "acs:ram::1234567890123456:oidc-provider/cluster".try_into().unwrap(),
            duration: SessionDuration::HOUR,
        },
    }
}

/// Returns an item with a constant value.
pub(crate) fn item(dialect: Dialect, path: &str, value: &str) -> Item {
    let source = ItemSource::Value(ItemText::try_from(value).unwrap());
    Item { dialect, path: ItemPath::try_from(path).unwrap(), source }
}

/// Returns a link with one address of each family.
pub(crate) fn link() -> Link {
    Link {
        ipv4: vec!["10.0.1.23".parse().unwrap()],
        ipv6: vec!["2001:db8:10::5".parse().unwrap()],
        mac: MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]),
    }
}

/// Returns the text of a leaf, or `None` if the item does not exist. Panics if the item is not text.
pub(crate) fn text(tree: &Tree, path: &str) -> Option<String> {
    match tree.get(path, LATEST)? {
        Lookup::Leaf(LeafValue::Text(text)) => Some(String::from_utf8(text.to_vec()).unwrap()),
        other => panic!("{path} is not text: {other:?}"),
    }
}

/// Looks up the path of a request.
pub(crate) fn look_up<'t>(protocol: &dyn Protocol, tree: &'t Tree, path: &str) -> Option<Lookup<'t>> {
    protocol.look_up(tree, &CanonicalPath::parse(path)?)
}

/// Returns the listing of a directory in a version, or `None` if there is no such directory.
pub(crate) fn listing(tree: &Tree, path: &str, version: SinceVersion) -> Option<String> {
    match tree.get(path, version)? {
        Lookup::Listing(listing) => Some(String::from_utf8(listing.to_vec()).unwrap()),
        other @ Lookup::Leaf(_) => panic!("{path} is not a directory: {other:?}"),
    }
}

/// A version that is newer than every version of an item.
pub(crate) const LATEST: SinceVersion = SinceVersion(u8::MAX);

pub(crate) fn string_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
