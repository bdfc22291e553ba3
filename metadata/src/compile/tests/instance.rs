//! Properties of the instance, and the precedence of their sources.

use crate::dialect::Dialect;
use crate::facts::Controller;
use crate::fixture::{Case, aliyun_oidc, secret_role, web_identity};
use crate::names::AccountId;
use crate::profile::LifeCycle;

const REGION: &str = "topology.kubernetes.io/region";

/// Returns the instance IDs of EC2 and ECS.
fn ids(case: &Case) -> (String, String) {
    let workload = case.workload();
    (workload.ec2().instance_id, workload.ecs().instance_id)
}

/// Returns the image IDs of EC2 and ECS.
fn images(case: &Case) -> (String, String) {
    let workload = case.workload();
    (workload.ec2().image_id, workload.ecs().image_id)
}

fn account(case: &Case, dialect: Dialect) -> Option<String> {
    case.workload().part(dialect).unwrap().account.as_ref().map(ToString::to_string)
}

fn owned_by(case: &mut Case, kind: &str, name: &str) {
    let (kind, name, uid) = (kind.to_owned(), name.to_owned(), format!("uid-of-{name}"));
    case.facts.pod.metadata.controller = Some(Controller { kind, name, uid });
}

#[test]
fn instance_id_depends_on_the_pod_uid_only() {
    let mut case = Case::new();
    let (ec2, ecs) = ids(&case);
    assert!(ec2.starts_with("i-") && ec2.len() == 19, "{ec2}");
    assert!(ecs.starts_with("i-") && ecs.len() == 22, "{ecs}");
    assert!(!ecs.contains(ec2.get(2..).unwrap()));
    case.facts.pod.metadata.labels.insert("app".to_owned(), "changed".to_owned());
    case.facts.pod.spec.image = "registry.example/app:2".to_owned();
    case.profile_mut().object.generation = 9;
    assert_eq!(ids(&case), (ec2.clone(), ecs.clone()));
    case.facts.pod.metadata.uid = "another".try_into().unwrap();
    let (other_ec2, other_ecs) = ids(&case);
    assert_ne!((other_ec2, other_ecs), (ec2, ecs));
}

#[test]
fn image_id_is_of_the_profile_or_a_hash_of_the_image() {
    let mut case = Case::new();
    let (ec2, ecs) = images(&case);
    assert!(ec2.starts_with("ami-") && ec2.len() == 21, "{ec2}");
    assert!(ecs.starts_with("m-") && ecs.len() == 22, "{ecs}");
    case.facts.pod.metadata.uid = "another".try_into().unwrap();
    assert_eq!(images(&case), (ec2.clone(), ecs));
    case.facts.pod.spec.image = "registry.example/app:2".to_owned();
    assert_ne!(images(&case).0, ec2);
    case.profile_mut().instance.image_id = Some("ami-0abc1234def567890".try_into().unwrap());
    assert_eq!(images(&case), ("ami-0abc1234def567890".to_owned(), "ami-0abc1234def567890".to_owned()));
}

#[test]
fn account_is_of_the_role_then_profile_then_settings() {
    let mut case = Case::new();
    let account_id = |text: &str| Some(AccountId::try_from(text).unwrap());
    assert_eq!(account(&case, Dialect::Ec2), None);
    case.settings.account = account_id("111111111111");
    assert_eq!(account(&case, Dialect::Ec2).unwrap(), "111111111111");
    case.profile_mut().instance.account_id = account_id("222222222222");
    assert_eq!(account(&case, Dialect::Ec2).unwrap(), "222222222222");
    let role = web_identity("web", "arn:aws:iam::333333333333:role/web");
    case.profile_mut().roles = [(Dialect::Ec2, role)].into();
    assert_eq!(account(&case, Dialect::Ec2).unwrap(), "333333333333");
    assert_eq!(account(&case, Dialect::Ecs).unwrap(), "222222222222");
}

#[test]
fn each_dialect_has_the_account_of_its_role() {
    let mut case = Case::new();
    case.profile_mut().roles = [
        (Dialect::Ec2, web_identity("web", "arn:aws:iam::333333333333:role/web")),
        (Dialect::Ecs, aliyun_oidc("web", "acs:ram::1234567890123456:role/web")),
    ]
    .into();
    assert_eq!(account(&case, Dialect::Ec2).unwrap(), "333333333333");
    assert_eq!(account(&case, Dialect::Ecs).unwrap(), "1234567890123456");
}

#[test]
fn secret_role_has_no_account() {
    let mut case = Case::new();
    case.profile_mut().roles = [(Dialect::Ec2, secret_role("web"))].into();
    assert_eq!(account(&case, Dialect::Ec2), None);
    case.profile_mut().instance.account_id = Some("222222222222".try_into().unwrap());
    assert_eq!(account(&case, Dialect::Ec2).unwrap(), "222222222222");
}

#[test]
fn region_zone_and_type_are_of_the_profile_then_the_node() {
    let mut case = Case::new();
    case.on_node(&[
        (REGION, "eu-west-1"),
        ("topology.kubernetes.io/zone", "eu-west-1a"),
        ("topology.k8s.aws/zone-id", "euw1-az2"),
        ("node.kubernetes.io/instance-type", "m7i.large"),
    ]);
    let place = |case: &Case| {
        let instance = case.workload().instance;
        [instance.region, instance.zone, instance.zone_id, instance.instance_type].map(Option::unwrap)
    };
    assert_eq!(place(&case), ["eu-west-1", "eu-west-1a", "euw1-az2", "m7i.large"]);
    let instance = &mut case.profile_mut().instance;
    instance.region = Some("us-east-1".try_into().unwrap());
    instance.availability_zone = Some("us-east-1b".try_into().unwrap());
    instance.availability_zone_id = Some("use1-az1".try_into().unwrap());
    instance.instance_type = Some("c7g.medium".try_into().unwrap());
    assert_eq!(place(&case), ["us-east-1", "us-east-1b", "use1-az1", "c7g.medium"]);
}

#[test]
fn region_without_a_label_is_of_the_settings() {
    let mut case = Case::new();
    case.settings.region = Some("eu-central-1".to_owned());
    let instance = case.workload().instance;
    assert_eq!(instance.region.as_deref(), Some("eu-central-1"));
    assert_eq!((instance.zone, instance.zone_id, instance.instance_type), (None, None, None));
    case.on_node(&[(REGION, "eu-west-1")]);
    assert_eq!(case.workload().instance.region.as_deref(), Some("eu-west-1"));
}

#[test]
fn life_cycle_is_of_the_profile_then_the_node() {
    let mut case = Case::new();
    assert_eq!(case.workload().instance.life_cycle, None);
    for (labels, cycle) in [
        (&[][..], LifeCycle::OnDemand),
        (&[("karpenter.sh/capacity-type", "spot")], LifeCycle::Spot),
        (&[("karpenter.sh/capacity-type", "on-demand")], LifeCycle::OnDemand),
        (&[("eks.amazonaws.com/capacityType", "SPOT")], LifeCycle::Spot),
        (&[("eks.amazonaws.com/capacityType", "CAPACITY_BLOCK")], LifeCycle::CapacityBlock),
        (&[("node.alibabacloud.com/spot-strategy", "SpotAsPriceGo")], LifeCycle::Spot),
        (&[("node.alibabacloud.com/spot-strategy", "NoSpot")], LifeCycle::OnDemand),
    ] {
        case.on_node(labels);
        assert_eq!(case.workload().instance.life_cycle, Some(cycle), "{labels:?}");
    }
    case.profile_mut().instance.life_cycle = Some(LifeCycle::Scheduled);
    assert_eq!(case.workload().instance.life_cycle, Some(LifeCycle::Scheduled));
}

#[test]
fn architecture_is_of_the_node_in_ec2_notation() {
    let mut case = Case::new();
    assert_eq!(case.workload().instance.architecture, None);
    for (label, word) in [("amd64", "x86_64"), ("arm64", "arm64"), ("386", "i386"), ("riscv64", "riscv64")] {
        case.on_node(&[("kubernetes.io/arch", label)]);
        assert_eq!(case.workload().instance.architecture.as_deref(), Some(word));
    }
}

#[test]
fn hostname_and_fqdn_are_those_of_kubernetes() {
    let mut case = Case::new();
    let names = |case: &Case| {
        let instance = case.workload().instance;
        (instance.hostname, instance.fqdn)
    };
    assert_eq!(names(&case), ("web".to_owned(), None));
    case.facts.pod.spec.hostname = Some("front".to_owned());
    assert_eq!(names(&case), ("front".to_owned(), None));
    case.facts.pod.spec.subdomain = Some("peers".to_owned());
    assert_eq!(names(&case).1.unwrap(), "front.peers.shop.svc.cluster.local");
    case.settings.cluster_domain = "k8s.example".to_owned();
    assert_eq!(names(&case).1.unwrap(), "front.peers.shop.svc.k8s.example");
    case.facts.pod.spec.hostname = None;
    case.facts.pod.metadata.name = format!("{}--{}", "x".repeat(62), "y".repeat(20));
    assert_eq!(names(&case).0, "x".repeat(62));
}

#[test]
fn launch_index_is_the_stateful_set_ordinal_or_0() {
    let mut case = Case::new();
    case.facts.pod.metadata.name = "db-3".to_owned();
    assert_eq!(case.workload().instance.launch_index, 0);
    owned_by(&mut case, "ReplicaSet", "db");
    assert_eq!(case.workload().instance.launch_index, 0);
    owned_by(&mut case, "StatefulSet", "db");
    assert_eq!(case.workload().instance.launch_index, 3);
    case.facts.pod.metadata.labels.insert("apps.kubernetes.io/pod-index".to_owned(), "4".to_owned());
    assert_eq!(case.workload().instance.launch_index, 4);
}

#[test]
fn pods_of_one_controller_have_one_reservation() {
    let mut case = Case::new();
    let reservation = |case: &Case| (case.workload().instance.reservation, case.workload().instance.owned);
    assert_eq!(reservation(&case), ("uid-shop-web".to_owned(), false));
    owned_by(&mut case, "ReplicaSet", "web");
    assert_eq!(reservation(&case), ("uid-of-web".to_owned(), true));
    case.facts.pod.metadata.uid = "another".try_into().unwrap();
    assert_eq!(reservation(&case).0, "uid-of-web");
}

#[test]
fn subnet_is_of_the_profile_then_the_node() {
    let mut case = Case::new();
    case.on_node(&[]).spec.pod_cidrs = ["2001:db8:10::/64", "10.244.3.0/24"].map(|range| range.parse().unwrap()).into();
    let network = case.workload().instance.network;
    assert_eq!(network.subnet_ipv4_cidr_block, Some("10.244.3.0/24".parse().unwrap()));
    assert_eq!(network.subnet_ipv6_cidr_blocks, ["2001:db8:10::/64".parse().unwrap()]);
    assert_eq!(network.vpc_ipv4_cidr_blocks, []);
    let own = &mut case.profile_mut().instance.network;
    own.subnet_ipv4_cidr_block = Some("10.0.1.0/24".parse().unwrap());
    own.subnet_ipv6_cidr_blocks = vec!["2001:db8:20::/64".parse().unwrap()];
    let network = case.workload().instance.network;
    assert_eq!(network.subnet_ipv4_cidr_block, Some("10.0.1.0/24".parse().unwrap()));
    assert_eq!(network.subnet_ipv6_cidr_blocks, ["2001:db8:20::/64".parse().unwrap()]);
}

#[test]
fn public_keys_limits_and_users_are_of_the_profile() {
    let mut case = Case::new();
    let own = case.profile_mut();
    own.users.denied = vec![33];
    own.limits.connections = std::num::NonZeroU32::MIN;
    own.public_keys = vec![crate::profile::PublicKey {
        name: "me".try_into().unwrap(),
        open_ssh_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me".try_into().unwrap(),
    }];
    let workload = case.workload();
    assert_eq!(workload.users, case.profiles[0].users);
    assert_eq!(workload.limits, case.profiles[0].limits);
    assert_eq!(workload.instance.public_keys, case.profiles[0].public_keys);
}
