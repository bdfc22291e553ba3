//! The rows of docs/coverage.md and the placeholders in their paths.

use std::collections::{BTreeMap, BTreeSet};

use podmeta_metadata::dialect::Dialect;

/// Names found for each placeholder.
pub(crate) type PlaceholderNames = BTreeMap<String, BTreeSet<String>>;

/// A row of a coverage table.
pub(crate) struct CoverageRow {
    pub(crate) path: String,
    pub(crate) since: Option<String>,
    pub(crate) source: RowSource,
    place: String,
}

/// The source of the value of a row.
pub(crate) enum RowSource {
    /// Served by podmeta without configuration.
    Builtin(String),
    /// Served only as a metadata item of a profile, for this reason.
    Item(String),
    /// Not served, for this reason.
    Absent(String),
}

impl RowSource {
    fn of(text: &str) -> Self {
        match (text.strip_prefix("item:"), text.strip_prefix("absent:")) {
            (Some(reason), _) => Self::Item(reason.to_owned()),
            (_, Some(reason)) => Self::Absent(reason.to_owned()),
            (None, None) => Self::Builtin(text.to_owned()),
        }
    }
}

/// Parses the first table below the heading of a dialect.
pub(crate) fn rows(file: &str, text: &str, dialect: Dialect) -> Vec<CoverageRow> {
    let heading = format!("## {}", dialect.as_str().to_uppercase());
    let lines = text.lines().zip(1..).skip_while(|(line, _)| **line != heading);
    let table = lines.skip_while(|(line, _)| !line.starts_with('|')).take_while(|(line, _)| line.starts_with('|'));
    let rows = table.skip(2).map(|(line, number)| {
        let place = format!("{file}:{number}");
        let cells = line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
        let (path, since, source) = match (dialect, cells.as_slice()) {
            (Dialect::Ec2, [path, since, source]) => (path, Some(*since), source),
            (Dialect::Ecs, [path, source]) => (path, None, source),
            _ => panic!("{place}: row has {} cells: {line}", cells.len()),
        };
        let path = path.strip_prefix('`').and_then(|path| path.strip_suffix('`'));
        let path =
            path.filter(|path| path.starts_with('/')).unwrap_or_else(|| panic!("{place}: row has no path: {line}"));
        let since = since.filter(|since| *since != "–").map(str::to_owned);
        CoverageRow { path: path.to_owned(), since, source: RowSource::of(source), place }
    });
    rows.collect()
}

/// Splits a name with a placeholder, such as `ebs{N}` or `<mac>`, into prefix, placeholder name and suffix.
fn placeholder(name: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = name.split_once(['{', '<'])?;
    let (label, after) = rest.split_once(['}', '>'])?;
    Some((before, label, after))
}

/// Returns the part of `name` that replaces the placeholder, if prefix and suffix match.
fn placeholder_value<'n>((before, _, after): (&str, &str, &str), name: &'n str) -> Option<&'n str> {
    name.strip_prefix(before)?.strip_suffix(after).filter(|placeholder_value| !placeholder_value.is_empty())
}

/// Returns true if a path matches the path pattern of a row.
pub(crate) fn path_matches(row: &str, path: &str) -> bool {
    let (row, path) = (row.split('/').collect::<Vec<_>>(), path.split('/').collect::<Vec<_>>());
    let path_matches = |(wanted, name): (&&str, &&str)| match placeholder(wanted) {
        Some(placeholder) => placeholder_value(placeholder, name).is_some(),
        None => wanted == name,
    };
    row.len() == path.len() && row.iter().zip(&path).all(path_matches)
}

impl CoverageRow {
    pub(crate) fn is_directory(&self) -> bool {
        // ECS also serves this listing without the trailing slash.
        self.path.ends_with('/') || self.path == "/latest/meta-data"
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.source, RowSource::Absent(_))
    }

    pub(crate) fn failure(&self, what: &str) -> String {
        format!("{}: {} {what}", self.place, self.path)
    }

    /// Expands the path of this row. A placeholder is replaced by each matching name of the directory listing. If there
    /// is none, it is replaced by each name found on other pods, or by the placeholder itself.
    pub(crate) fn paths(&self, names: &PlaceholderNames, list: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        self.expand(list, |label| match names.get(label) {
            Some(names) => names.iter().cloned().collect(),
            None => vec![label.to_owned()],
        })
    }

    /// Adds the names that replace the placeholders of this row.
    pub(crate) fn collect_names(&self, names: &mut PlaceholderNames, list: impl Fn(&str) -> Vec<String>) {
        for path in self.expand(list, |_| Vec::new()) {
            for (wanted, name) in self.path.split('/').zip(path.split('/')) {
                let Some(placeholder) = placeholder(wanted) else { continue };
                if let Some(placeholder_value) = placeholder_value(placeholder, name) {
                    names.entry(placeholder.1.to_owned()).or_default().insert(placeholder_value.to_owned());
                }
            }
        }
    }

    /// Replaces each placeholder of the path with the matching names of its directory listing, or with those of `otherwise`
    /// if none matches.
    fn expand(&self, list: impl Fn(&str) -> Vec<String>, otherwise: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        let mut paths = vec![String::new()];
        for (at, wanted) in self.path.split('/').enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            paths = paths
                .into_iter()
                .flat_map(|path| {
                    let names = match placeholder(wanted) {
                        None => vec![wanted.to_owned()],
                        Some(placeholder) => {
                            let listed = list(&path);
                            let mut names = listed
                                .into_iter()
                                .filter(|name| placeholder_value(placeholder, name).is_some())
                                .collect::<Vec<_>>();
                            if names.is_empty() {
                                let (before, label, after) = placeholder;
                                let placeholder_values = otherwise(label).into_iter();
                                names.extend(
                                    placeholder_values
                                        .map(|placeholder_value| format!("{before}{placeholder_value}{after}")),
                                );
                            }
                            names
                        }
                    };
                    names.into_iter().map(move |name| format!("{path}{slash}{name}"))
                })
                .collect();
        }
        paths
    }
}
