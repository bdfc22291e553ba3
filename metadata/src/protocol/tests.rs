//! Property tests of the trees of all dialects.

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

/// Returns the differences between a listing and the items that exist.
#[derive(Clone, Copy, Debug)]
enum Differs {
    /// The name is listed but does not exist.
    ListedButAbsent(&'static str),
    /// A child with a number as its name is listed as `N=name`, without a slash.
    ListedAsNumberAndName,
    /// The name exists but is not listed.
    Unlisted(&'static str),
}

/// All directories whose listing differs from the items that exist.
const EXCEPTIONS: [(Dialect, &str, Differs); 4] = [
    (Dialect::Ec2, "", Differs::ListedButAbsent("user-data")),
    (Dialect::Ec2, "meta-data/public-keys", Differs::ListedAsNumberAndName),
    (Dialect::Ecs, "", Differs::ListedButAbsent("user-data")),
    (Dialect::Ecs, "meta-data", Differs::Unlisted("all")),
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

/// The tree of one dialect, and the exceptions that apply to it.
struct CheckedTree<'t> {
    dialect: Dialect,
    tree: &'t Tree,
    exceptions: Vec<(&'static str, Differs)>,
}

impl CheckedTree<'_> {
    fn differs(&self, directory: &str, how: impl Fn(Differs) -> bool) -> bool {
        self.exceptions.iter().any(|(place, differs)| *place == directory && how(*differs))
    }

    /// Returns the name of a child from its line in a listing, and true if the line marks a directory.
    fn child<'l>(&self, directory: &str, line: &'l str) -> (&'l str, bool) {
        let numbered = self.differs(directory, |differs| matches!(differs, Differs::ListedAsNumberAndName));
        match (line.split_once('='), line.strip_suffix('/')) {
            (Some((number, _)), None) if numbered => (number, true),
            (_, Some(name)) => (name, true),
            // The listing of a version does not mark directories, and `dynamic` does not on ECS.
            (_, None) => {
                let unmarked = directory.is_empty() || (self.dialect == Dialect::Ecs && directory == "dynamic");
                (line, unmarked && line != "user-data")
            }
        }
    }

    /// Returns the differences between listings and existing items that are not exceptions.
    fn faults(&self, version: SinceVersion) -> Vec<String> {
        let mut faults = Vec::new();
        let mut listed = BTreeSet::from([String::new()]);
        for directory in self.tree.paths() {
            let Some(Lookup::Listing(lines)) = self.tree.get(directory, version) else { continue };
            let lines = std::str::from_utf8(&lines).unwrap().split('\n').collect::<Vec<_>>();
            if !lines.is_sorted_by(|a, b| a < b) {
                faults.push(format!("{directory:?} is not in byte order, or lists a name twice: {lines:?}"));
            }
            for line in lines {
                let (name, is_directory) = self.child(directory, line);
                let path = join(directory, name);
                let absent = |differs| matches!(differs, Differs::ListedButAbsent(absent) if absent == name);
                match self.tree.get(&path, version) {
                    Some(found) if matches!(found, Lookup::Listing(_)) == is_directory => {}
                    None if self.differs(directory, absent) => {}
                    found => faults.push(format!("{line:?} in {directory:?} is {found:?}")),
                }
                listed.insert(path);
            }
        }
        for path in self.tree.paths().filter(|path| self.tree.get(path, version).is_some()) {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let unlisted = |differs| matches!(differs, Differs::Unlisted(unlisted) if unlisted == name);
            if listed.contains(path) == self.differs(directory, unlisted) {
                faults.push(format!("{path:?} is listed but must not be, or must be and is not"));
            }
        }
        faults
    }
}

fn faults(dialect: Dialect, tree: &Tree, exceptions: &[(Dialect, &'static str, Differs)]) -> Vec<String> {
    let exceptions = exceptions.iter().filter(|(of, _, _)| *of == dialect);
    let exceptions = exceptions.map(|(_, place, differs)| (*place, *differs)).collect();
    let checked = CheckedTree { dialect, tree, exceptions };
    versions(dialect).into_iter().flat_map(|version| checked.faults(version)).collect()
}

/// Changes of the full pod, in any combination.
const CHANGES: [fn(&mut Case); 17] = [
    |case| case.facts.node = None,
    |case| case.facts.pod.metadata.deletion_timestamp = None,
    |case| case.facts.pod.status.disruption_target = None,
    |case| case.facts.pod.spec.subdomain = Some("peers".to_owned()),
    |case| case.facts.pod.metadata.labels = string_map(&[("0=x", "1"), ("a/b", "2"), ("_index", "3"), ("z", "")]),
    |case| case.settings.hostname_suffix = Some("pods.example".to_owned()),
    |case| case.settings.account = Some("000000000001".try_into().unwrap()),
    |case| case.profile_mut().roles.clear(),
    |case| case.profile_mut().roles = Dialect::ALL.map(|dialect| (dialect, secret_role("all"))).into(),
    |case| case.profile_mut().tag_labels.clear(),
    |case| case.profile_mut().user_data = None,
    |case| {
        case.profile_mut().user_data =
            Some(UserDataSource::Secret(KeyRef { name: "a".to_owned(), key: "b".to_owned() }))
    },
    |case| case.profile_mut().user_data = Some(UserDataSource::inline("\u{0}\r\n é".to_owned()).unwrap()),
    |case| case.profile_mut().public_keys.clear(),
    |case| case.profile_mut().public_keys = (0..12).map(public_key).collect(),
    |case| case.profile_mut().instance.network = Network::default(),
    |case| case.profile_mut().instance.network.public_ipv4 = None,
];

prop_compose! {
    /// An item at a path that likely conflicts with a leaf or a directory.
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
    /// A compiled workload, and a link.
    fn workloads()(
        changes in subsequence(CHANGES.to_vec(), 0..=CHANGES.len()),
        items in proptest::collection::vec(items(), 0..8),
        ipv4 in proptest::collection::vec(any::<std::net::Ipv4Addr>(), 0..3),
        ipv6 in proptest::collection::vec(any::<std::net::Ipv6Addr>(), 0..3),
    ) -> (Workload, Link) {
        let mut case = Case::full();
        changes.iter().for_each(|change| change(&mut case));
        for item in items.into_iter().flatten() {
            if !case.profile_mut().items.iter().any(|other| (other.dialect, &other.path) == (item.dialect, &item.path)) {
                case.profile_mut().items.push(item);
            }
        }
        match case.compile().outcome {
            Outcome::Served(workload) => (*workload, Link { ipv4, ipv6, ..link() }),
            other => panic!("the pod is not served: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn listings_match_existing_items((workload, link) in workloads()) {
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
    fn workload_is_unchanged_by_json((workload, link) in workloads()) {
        let text = serde_json::to_string(&workload).unwrap();
        let parsed = serde_json::from_str::<Workload>(&text).unwrap();
        prop_assert_eq!(&parsed, &workload);
        for dialect in Dialect::ALL {
            prop_assert_eq!(render(dialect, &parsed, &link), render(dialect, &workload, &link));
        }
    }

    #[test]
    fn items_of_a_profile_do_not_remove_own_items((workload, link) in workloads()) {
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
fn every_exception_is_needed() {
    let mut pods = [Case::full(), Case::new()];
    pods[1].profile_mut().user_data = None;
    let pods = pods.map(|case| case.workload());
    for left_out in 0..EXCEPTIONS.len() {
        let mut exceptions = EXCEPTIONS.to_vec();
        let (dialect, place, differs) = exceptions.remove(left_out);
        let faults = pods.iter().flat_map(|pod| faults(dialect, &render(dialect, pod, &link()), &exceptions));
        assert!(faults.count() > 0, "{dialect} {place:?} {differs:?}");
    }
}
