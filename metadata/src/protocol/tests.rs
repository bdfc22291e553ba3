//! What holds for every tree that a pod can have, in both dialects.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{ec2, ecs};
use crate::compile::Outcome;
use crate::dialect::Dialect;
use crate::fixture::{Case, item, link, secret_role, string_map};
use crate::item::{FieldPath, Item, ItemPath, ItemSource};
use crate::profile::{KeyRef, Network, PublicKey, UserDataSource};
use crate::tree::{Lookup, SinceVersion, Tree};
use crate::workload::{Link, Workload};

/// How a listing may differ from what can be fetched.
#[derive(Clone, Copy, Debug)]
enum Differs {
    /// The name is listed though nothing stands there.
    ListedThoughAbsent(&'static str),
    /// A child that is a number is listed as `N=name`, unmarked.
    ListedAsNumberAndName,
    /// The name is served and not listed.
    ServedUnlisted(&'static str),
}

/// Every place where a listing differs from what can be fetched.
const EXCEPTIONS: [(Dialect, &str, Differs); 3] = [
    (Dialect::Ec2, "", Differs::ListedThoughAbsent("user-data")),
    (Dialect::Ec2, "meta-data/public-keys", Differs::ListedAsNumberAndName),
    (Dialect::Ecs, "meta-data", Differs::ServedUnlisted("all")),
];

fn render(dialect: Dialect, workload: &Workload, link: &Link) -> Tree {
    dialect.protocol().render(workload, link).unwrap()
}

fn versions(dialect: Dialect) -> Vec<SinceVersion> {
    match dialect {
        Dialect::Ec2 => ec2::version::PREFIXES.iter().map(|prefix| ec2::version::parse(prefix).unwrap()).collect(),
        Dialect::Ecs => vec![ecs::tree::ALWAYS],
    }
}

fn public_key(number: usize) -> PublicKey {
    let name = format!("key-{number}").try_into().unwrap();
    PublicKey { name, open_ssh_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".try_into().unwrap() }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// One dialect's tree and the exceptions that hold for it.
struct Checked<'t> {
    dialect: Dialect,
    tree: &'t Tree,
    exceptions: Vec<(&'static str, Differs)>,
}

impl Checked<'_> {
    fn differs(&self, directory: &str, how: impl Fn(Differs) -> bool) -> bool {
        self.exceptions.iter().any(|(place, differs)| *place == directory && how(*differs))
    }

    /// The name that a line of a listing stands for, and whether the line says that it is a directory.
    fn child<'l>(&self, directory: &str, line: &'l str) -> (&'l str, bool) {
        let numbered = self.differs(directory, |differs| matches!(differs, Differs::ListedAsNumberAndName));
        match (line.split_once('='), line.strip_suffix('/')) {
            (Some((number, _)), None) if numbered => (number, true),
            (_, Some(name)) => (name, true),
            // The names in a version's listing have no mark.
            (_, None) => (line, self.dialect == Dialect::Ec2 && directory.is_empty() && line != "user-data"),
        }
    }

    /// What is listed and cannot be fetched as what it is listed as, and what can be fetched and is not listed.
    fn faults(&self, version: SinceVersion) -> Vec<String> {
        let mut faults = Vec::new();
        let mut listed = BTreeSet::from([String::new()]);
        for directory in self.tree.paths() {
            let Some(Lookup::Listing(lines)) = self.tree.get(directory, version) else { continue };
            let lines = std::str::from_utf8(&lines).unwrap().split('\n').collect::<Vec<_>>();
            if !lines.is_sorted_by(|a, b| a < b) {
                faults.push(format!("{directory:?} is not listed in byte order, each name once: {lines:?}"));
            }
            for line in lines {
                let (name, is_directory) = self.child(directory, line);
                let path = join(directory, name);
                let absent = |differs| matches!(differs, Differs::ListedThoughAbsent(absent) if absent == name);
                match self.tree.get(&path, version) {
                    Some(found) if matches!(found, Lookup::Listing(_)) == is_directory => {}
                    None if self.differs(directory, absent) => {}
                    found => faults.push(format!("{line:?} in {directory:?} leads to {found:?}")),
                }
                listed.insert(path);
            }
        }
        for path in self.tree.paths().filter(|path| self.tree.get(path, version).is_some()) {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let unlisted = |differs| matches!(differs, Differs::ServedUnlisted(unlisted) if unlisted == name);
            if listed.contains(path) == self.differs(directory, unlisted) {
                faults.push(format!("whether {path:?} is listed is not as it should be"));
            }
        }
        faults
    }
}

fn faults(dialect: Dialect, tree: &Tree, exceptions: &[(Dialect, &'static str, Differs)]) -> Vec<String> {
    let exceptions = exceptions.iter().filter(|(of, _, _)| *of == dialect);
    let exceptions = exceptions.map(|(_, place, differs)| (*place, *differs)).collect();
    let checked = Checked { dialect, tree, exceptions };
    versions(dialect).into_iter().flat_map(|version| checked.faults(version)).collect()
}

/// What a pod may lack of the full one, or have in another way.
const CHANGES: [fn(&mut Case); 17] = [
    |case| case.facts.node = None,
    |case| case.facts.pod.metadata.deletion_timestamp = None,
    |case| case.facts.pod.status.disruption_target = None,
    |case| case.facts.pod.spec.subdomain = Some("peers".to_owned()),
    |case| case.facts.pod.metadata.labels = string_map(&[("0=x", "1"), ("a/b", "2"), ("_index", "3"), ("z", "")]),
    |case| case.settings.hostname_suffix = Some("pods.example".to_owned()),
    |case| case.settings.account = Some("000000000001".try_into().unwrap()),
    |case| case.own().roles.clear(),
    |case| case.own().roles = Dialect::ALL.map(|dialect| (dialect, secret_role("all"))).into(),
    |case| case.own().tag_labels.clear(),
    |case| case.own().user_data = None,
    |case| case.own().user_data = Some(UserDataSource::Secret(KeyRef { name: "a".to_owned(), key: "b".to_owned() })),
    |case| case.own().user_data = Some(UserDataSource::inline("\u{0}\r\n é".to_owned()).unwrap()),
    |case| case.own().public_keys.clear(),
    |case| case.own().public_keys = (0..12).map(public_key).collect(),
    |case| case.own().instance.network = Network::default(),
    |case| case.own().instance.network.public_ipv4 = None,
];

prop_compose! {
    /// An item at a path that may well be taken by a leaf or a directory.
    fn items()(
        dialect in select(&Dialect::ALL[..]),
        names in proptest::collection::vec(
            select(&["placement", "region", "spot", "events", "instance", "image-id", "network", "public-keys", "0",
                "openssh-key", "vpc-id", "services", "x", "y", "x-1"][..]),
            1..5,
        ),
        kind in 0..3,
        value in "[a-z\n\t \"é]{0,8}",
    ) -> Option<Item> {
        let path = ItemPath::try_from(names.join("/")).unwrap();
        path.check(dialect).ok()?;
        Some(match kind {
            0 => Item { dialect, path, source: ItemSource::Field(FieldPath::PodIp) },
            1 => Item { dialect, path, source: ItemSource::Field(FieldPath::PodIps) },
            _ => item(dialect, path.as_str(), &value),
        })
    }
}

prop_compose! {
    /// A workload that compiling can give, and a link.
    fn workloads()(
        changes in subsequence(CHANGES.to_vec(), 0..=CHANGES.len()),
        items in proptest::collection::vec(items(), 0..8),
        ipv4 in proptest::collection::vec(any::<std::net::Ipv4Addr>(), 0..3),
        ipv6 in proptest::collection::vec(any::<std::net::Ipv6Addr>(), 0..3),
    ) -> (Workload, Link) {
        let mut case = Case::full();
        changes.iter().for_each(|change| change(&mut case));
        for item in items.into_iter().flatten() {
            if !case.own().items.iter().any(|other| (other.dialect, &other.path) == (item.dialect, &item.path)) {
                case.own().items.push(item);
            }
        }
        match case.compile().outcome {
            Outcome::Served(workload) => (*workload, Link { ipv4, ipv6, ..link() }),
            other => panic!("it is not served: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn what_is_listed_can_be_fetched_and_what_can_be_fetched_is_listed((workload, link) in workloads()) {
        for dialect in Dialect::ALL {
            let faults = faults(dialect, &render(dialect, &workload, &link), &EXCEPTIONS);
            prop_assert!(faults.is_empty(), "{dialect}: {}", faults.join("\n"));
        }
    }

    #[test]
    fn own_paths_are_the_leaves_of_the_tree_without_items((mut workload, mut link) in workloads()) {
        for part in workload.dialects.values_mut() {
            part.items.clear();
        }
        // The check of item paths does not know the link: it assumes an address of each family.
        link.ipv4.push([10, 0, 0, 1].into());
        link.ipv6.push(1.into());
        for (dialect, part) in &workload.dialects {
            let own = dialect.protocol().own_paths(&workload, part).into_iter().collect::<BTreeSet<_>>();
            let tree = render(*dialect, &workload, &link);
            let leaves = tree.leaves(SinceVersion(u8::MAX)).filter_map(|(path, _)| path.strip_prefix("meta-data/"));
            let reserved = dialect.protocol().reserved_names();
            let leaves = leaves.filter(|path| !reserved.contains(&path.split('/').next().unwrap_or_default()));
            let interfaces = "network/interfaces/macs";
            let leaves = leaves.map(|path| if path.starts_with(interfaces) { interfaces } else { path });
            prop_assert_eq!(own, leaves.map(str::to_owned).collect::<BTreeSet<_>>(), "{}", dialect);
        }
    }

    #[test]
    fn a_workload_is_the_same_after_its_journey((workload, link) in workloads()) {
        let text = serde_json::to_string(&workload).unwrap();
        let arrived = serde_json::from_str::<Workload>(&text).unwrap();
        prop_assert_eq!(&arrived, &workload);
        for dialect in Dialect::ALL {
            prop_assert_eq!(render(dialect, &arrived, &link), render(dialect, &workload, &link));
        }
    }

    #[test]
    fn no_item_of_a_profile_is_in_the_way_of_podmetas_own((workload, link) in workloads()) {
        let mut bare = workload.clone();
        for part in bare.dialects.values_mut() {
            part.items.clear();
        }
        for dialect in Dialect::ALL {
            let tree = render(dialect, &workload, &link);
            for path in render(dialect, &bare, &link).paths() {
                prop_assert!(tree.paths().any(|other| other == path), "{} {}", dialect, path);
            }
        }
    }
}

#[test]
fn each_exception_is_one() {
    let mut pods = [Case::full(), Case::new()];
    pods[1].own().user_data = None;
    let pods = pods.map(|case| case.workload());
    for left_out in 0..EXCEPTIONS.len() {
        let mut exceptions = EXCEPTIONS.to_vec();
        let (dialect, place, differs) = exceptions.remove(left_out);
        let faults = pods.iter().flat_map(|pod| faults(dialect, &render(dialect, pod, &link()), &exceptions));
        assert!(faults.count() > 0, "{dialect} {place:?} {differs:?}");
    }
}
