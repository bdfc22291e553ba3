//! The metadata tree of one pod in one dialect: immutable, rendered once, and looked up for each request.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::profile::KeyRef;
use crate::workload::{DialectPart, ItemValue, Link};

/// The first version of the service that has an item: an index into the dialect's list, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SinceVersion(pub u8);

/// The value of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafValue {
    /// The body.
    Text(Bytes),
    /// User data: any bytes.
    UserData(Bytes),
    /// User data in a Secret. The edge requests it from the broker.
    SecretUserData(KeyRef),
    /// Credentials of the pod's role. The edge requests them from the broker.
    Credentials,
    /// A form of the signed identity document. The edge requests it from the broker.
    Document(DocumentForm),
}

/// The forms of the signed identity document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentForm {
    /// The document.
    Document,
    /// A bare signature of the document.
    Signature,
    /// The document inside a PKCS #7 signature.
    Pkcs7,
    /// The same PKCS #7 signature, served at EC2's path `rsa2048`.
    Rsa2048,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TreeNode {
    Leaf { since: SinceVersion, value: LeafValue },
    Directory { lines: Box<[(SinceVersion, Box<str>)]>, newest: SinceVersion, listing: Bytes },
}

/// Content of a tree at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<'t> {
    /// A leaf.
    Leaf(&'t LeafValue),
    /// The entries of a directory, one per line, without a line feed at the end.
    Listing(Bytes),
}

/// The tree below a version prefix. A lookup returns only items that the version has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The nodes, sorted by path. A path has no slash at its start and end.
    nodes: Box<[(Box<str>, TreeNode)]>,
}

impl Tree {
    /// Looks up a path in a version.
    #[must_use]
    pub fn get(&self, path: &str, version: SinceVersion) -> Option<Lookup<'_>> {
        let at = self.nodes.binary_search_by(|(name, _)| name.as_ref().cmp(path)).ok()?;
        match &self.nodes.get(at)?.1 {
            TreeNode::Leaf { since, value } => (*since <= version).then_some(Lookup::Leaf(value)),
            TreeNode::Directory { listing, newest, .. } if *newest <= version => Some(Lookup::Listing(listing.clone())),
            TreeNode::Directory { lines, .. } => {
                let lines = lines.iter().filter(|(since, _)| *since <= version).map(|(_, line)| &**line);
                let lines = lines.collect::<Vec<_>>();
                (!lines.is_empty()).then(|| Lookup::Listing(Bytes::from(lines.join("\n"))))
            }
        }
    }

    /// Iterates over the leaves of a version, in order of their paths.
    pub fn leaves(&self, version: SinceVersion) -> impl Iterator<Item = (&str, &LeafValue)> {
        self.nodes.iter().filter_map(move |(path, node)| match node {
            TreeNode::Leaf { since, value } if *since <= version => Some((path.as_ref(), value)),
            TreeNode::Leaf { .. } | TreeNode::Directory { .. } => None,
        })
    }

    /// Iterates over all paths, including directories, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|(path, _)| path.as_ref())
    }
}

/// Returns the line of a directory in the listing of its parent.
pub type DirectoryLine = fn(parent: &str, name: &str) -> String;

/// Builds a tree.
#[derive(Debug)]
pub struct TreeBuilder {
    leaves: BTreeMap<String, (SinceVersion, LeafValue)>,
    /// Lines of listings that differ from the child's name.
    lines: BTreeMap<String, (SinceVersion, String)>,
    /// Leaves that no listing shows.
    unlisted: BTreeMap<String, (SinceVersion, LeafValue)>,
    directory_line: DirectoryLine,
}

impl TreeBuilder {
    /// Returns an empty builder.
    #[must_use]
    pub fn new(directory_line: DirectoryLine) -> Self {
        Self { leaves: BTreeMap::new(), lines: BTreeMap::new(), unlisted: BTreeMap::new(), directory_line }
    }

    /// Adds a leaf and its parent directories. It replaces a leaf at the same path.
    pub fn add_leaf(&mut self, since: SinceVersion, path: impl Into<String>, value: LeafValue) {
        self.leaves.insert(path.into(), (since, value));
    }

    /// Adds a leaf of text.
    pub fn add_text(&mut self, since: SinceVersion, path: impl Into<String>, text: impl Into<String>) {
        self.add_leaf(since, path, LeafValue::Text(Bytes::from(text.into())));
    }

    /// Adds a leaf of text if `text` is set.
    pub fn add_optional_text(&mut self, since: SinceVersion, path: impl Into<String>, text: Option<impl Into<String>>) {
        if let Some(text) = text {
            self.add_text(since, path, text);
        }
    }

    /// Adds a leaf with one line for each element, unless `lines` is empty.
    pub fn add_lines<T: ToString>(&mut self, since: SinceVersion, path: impl Into<String>, lines: &[T]) {
        if !lines.is_empty() {
            let lines = lines.iter().map(ToString::to_string).collect::<Vec<_>>();
            self.add_text(since, path, lines.join("\n"));
        }
    }

    /// Adds a leaf that no listing contains. Another leaf must create its parent directory.
    pub fn add_unlisted_leaf(&mut self, since: SinceVersion, path: impl Into<String>, value: LeafValue) {
        self.unlisted.insert(path.into(), (since, value));
    }

    /// Iterates over the text leaves, in order of their paths.
    pub fn text_leaves(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.leaves.iter().filter_map(|(path, (_, value))| match value {
            LeafValue::Text(text) => Some((path.as_str(), text)),
            LeafValue::UserData(_) | LeafValue::SecretUserData(_) | LeafValue::Credentials | LeafValue::Document(_) => {
                None
            }
        })
    }

    /// Sets the line that represents the child `path` in the listing of its parent. The child need not exist.
    pub fn set_listing_line(&mut self, since: SinceVersion, path: impl Into<String>, line: impl Into<String>) {
        self.lines.insert(path.into(), (since, line.into()));
    }

    /// Adds the items of a profile to every version. `link` has the addresses of `PodIp` and `PodIps` items. Skips an item
    /// without an address, and one that would make a path both a leaf and a directory.
    pub fn add_profile_items(&mut self, part: &DialectPart, link: &Link) {
        for (path, value) in &part.items {
            let place = format!("meta-data/{path}");
            if conflicts(&self.leaves, &place) {
                continue;
            }
            let text = match value {
                ItemValue::Text(text) => Some(text.to_string()),
                ItemValue::PodIp => link.addresses().next(),
                ItemValue::PodIps => {
                    Some(link.addresses().collect::<Vec<_>>().join(",")).filter(|addresses| !addresses.is_empty())
                }
            };
            self.add_optional_text(SinceVersion(0), place, text);
        }
    }

    /// Returns the tree.
    #[must_use]
    pub fn build(self) -> Tree {
        let mut directories: BTreeMap<String, BTreeMap<String, SinceVersion>> = BTreeMap::new();
        for (path, (since, _)) in &self.leaves {
            let mut path = path.as_str();
            let mut is_leaf = true;
            // Add the name to its parent's listing, and each parent to its own parent's, up to the root.
            loop {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let line = match self.lines.get(path) {
                    Some((_, line)) => line.clone(),
                    None if is_leaf => name.to_owned(),
                    None => (self.directory_line)(parent, name),
                };
                let oldest = directories.entry(parent.to_owned()).or_default().entry(line).or_insert(*since);
                *oldest = (*oldest).min(*since);
                if parent.is_empty() {
                    break;
                }
                (path, is_leaf) = (parent, false);
            }
        }
        for (path, (since, line)) in self.lines {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            directories.entry(parent.to_owned()).or_default().entry(line).or_insert(since);
        }
        let directories = directories.into_iter().map(|(path, lines)| {
            let listing = lines.keys().map(String::as_str).collect::<Vec<_>>().join("\n");
            let newest = lines.values().copied().max().unwrap_or(SinceVersion(0));
            let lines = lines.into_iter().map(|(line, since)| (since, line.into_boxed_str())).collect();
            (path.into_boxed_str(), TreeNode::Directory { lines, newest, listing: Bytes::from(listing) })
        });
        let leaves = self
            .leaves
            .into_iter()
            .chain(self.unlisted)
            .map(|(path, (since, value))| (path.into_boxed_str(), TreeNode::Leaf { since, value }));
        let mut nodes = directories.chain(leaves).collect::<Vec<_>>();
        nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        Tree { nodes: nodes.into_boxed_slice() }
    }
}

/// Returns true if a new leaf at `path` would make some path both a leaf and a directory.
pub(crate) fn conflicts<V>(leaves: &BTreeMap<String, V>, path: &str) -> bool {
    let below = format!("{path}/");
    let is_directory = leaves.range(below.clone()..).next().is_some_and(|(leaf, _)| leaf.starts_with(&below));
    let is_below_leaf =
        path.match_indices('/').any(|(at, _)| path.get(..at).is_some_and(|parent| leaves.contains_key(parent)));
    is_directory || is_below_leaf
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree =
            TreeBuilder::new(|parent, name| if parent.is_empty() { name.to_owned() } else { format!("{name}/") });
        tree.add_text(SinceVersion(0), "meta-data/instance-id", "i-1");
        tree.add_text(SinceVersion(0), "meta-data/instance/type", "t");
        tree.add_text(SinceVersion(2), "meta-data/tags/instance/Name", "web");
        tree.set_listing_line(SinceVersion(0), "user-data", "user-data");
        tree.add_text(SinceVersion(0), "meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA");
        tree.set_listing_line(SinceVersion(0), "meta-data/public-keys/0", "0=my-key");
        tree.build()
    }

    fn listing(path: &str, version: u8) -> Option<String> {
        match tree().get(path, SinceVersion(version))? {
            Lookup::Listing(listing) => Some(String::from_utf8(listing.to_vec()).unwrap()),
            Lookup::Leaf(_) => None,
        }
    }

    #[test]
    fn listing_is_in_byte_order_and_marks_directories() {
        assert_eq!(listing("meta-data", 2).unwrap(), "instance-id\ninstance/\npublic-keys/\ntags/");
    }

    #[test]
    fn older_version_has_only_older_items() {
        assert_eq!(listing("meta-data", 1).unwrap(), "instance-id\ninstance/\npublic-keys/");
        assert_eq!(listing("meta-data/tags", 1), None);
        assert_eq!(tree().get("meta-data/tags/instance/Name", SinceVersion(1)), None);
        assert!(tree().get("meta-data/tags/instance/Name", SinceVersion(2)).is_some());
    }

    #[test]
    fn line_may_differ_from_the_name_or_have_no_node() {
        assert_eq!(listing("meta-data/public-keys", 0).unwrap(), "0=my-key");
        assert_eq!(listing("", 0).unwrap(), "meta-data\nuser-data");
        assert_eq!(tree().get("user-data", SinceVersion(0)), None);
    }

    #[test]
    fn path_that_is_a_leaf_and_a_directory_conflicts() {
        let leaves = ["a/b", "a-c"].map(|path| (path.to_owned(), ())).into();
        assert!(conflicts(&leaves, "a"));
        assert!(conflicts(&leaves, "a/b/c"));
        assert!(!conflicts(&leaves, "a/b"));
        assert!(!conflicts(&leaves, "a/c"));
        assert!(!conflicts(&leaves, "a-"));
    }
}
