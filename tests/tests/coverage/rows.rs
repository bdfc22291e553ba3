//! The rows of docs/coverage.md, and the placeholders in their paths.

use std::collections::{BTreeMap, BTreeSet};

use podmeta_metadata::dialect::Dialect;

/// The names that a placeholder was found to stand for.
pub(crate) type Names = BTreeMap<String, BTreeSet<String>>;

/// One row.
pub(crate) struct Row {
    pub(crate) path: String,
    pub(crate) since: Option<String>,
    pub(crate) source: Source,
    place: String,
}

/// Where a row's value comes from.
pub(crate) enum Source {
    /// From podmeta itself.
    Own(String),
    /// From an item of a profile; podmeta has none for this reason.
    Item(String),
    /// There is none, for this reason.
    Absent(String),
}

impl Source {
    fn of(text: &str) -> Self {
        match (text.strip_prefix("item:"), text.strip_prefix("absent:")) {
            (Some(why), _) => Self::Item(why.to_owned()),
            (_, Some(why)) => Self::Absent(why.to_owned()),
            (None, None) => Self::Own(text.to_owned()),
        }
    }
}

/// The rows of a dialect's table: the first one below its heading.
pub(crate) fn rows(file: &str, text: &str, dialect: Dialect) -> Vec<Row> {
    let heading = format!("## {}", dialect.as_str().to_uppercase());
    let lines = text.lines().zip(1..).skip_while(|(line, _)| **line != heading);
    let table = lines.skip_while(|(line, _)| !line.starts_with('|')).take_while(|(line, _)| line.starts_with('|'));
    let rows = table.skip(2).map(|(line, number)| {
        let place = format!("{file}:{number}");
        let cells = line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
        let (path, since, source) = match (dialect, cells.as_slice()) {
            (Dialect::Ec2, [path, since, source]) => (path, Some(*since), source),
            (Dialect::Ecs, [path, source]) => (path, None, source),
            _ => panic!("{place}: has {} cells: {line}", cells.len()),
        };
        let path = path.strip_prefix('`').and_then(|path| path.strip_suffix('`'));
        let path = path.filter(|path| path.starts_with('/')).unwrap_or_else(|| panic!("{place}: no path: {line}"));
        let since = since.filter(|since| *since != "–").map(str::to_owned);
        Row { path: path.to_owned(), since, source: Source::of(source), place }
    });
    rows.collect()
}

/// A name with a placeholder, `ebs{N}` or `<mac>`: what stands before it, what it is called, what stands after it.
fn placeholder(name: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = name.split_once(['{', '<'])?;
    let (called, after) = rest.split_once(['}', '>'])?;
    Some((before, called, after))
}

/// The part of `name` that a placeholder stands for, if the name fits.
fn filling<'n>((before, _, after): (&str, &str, &str), name: &'n str) -> Option<&'n str> {
    name.strip_prefix(before)?.strip_suffix(after).filter(|filling| !filling.is_empty())
}

/// Whether a path is one that a row's path stands for.
pub(crate) fn fits(row: &str, path: &str) -> bool {
    let (row, path) = (row.split('/').collect::<Vec<_>>(), path.split('/').collect::<Vec<_>>());
    let fits = |(wanted, name): (&&str, &&str)| match placeholder(wanted) {
        Some(placeholder) => filling(placeholder, name).is_some(),
        None => wanted == name,
    };
    row.len() == path.len() && row.iter().zip(&path).all(fits)
}

impl Row {
    pub(crate) fn is_directory(&self) -> bool {
        // One row of ECS is a listing by its spelling without the slash.
        self.path.ends_with('/') || self.path == "/latest/meta-data"
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.source, Source::Absent(_))
    }

    pub(crate) fn fault(&self, what: &str) -> String {
        format!("{}: {} {what}", self.place, self.path)
    }

    /// Every path that this row stands for. A placeholder is each name that the directory lists and that fits, and where
    /// there is none each name that it was ever found to stand for, or what it is called.
    pub(crate) fn paths(&self, names: &Names, list: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        self.expand(list, |called| match names.get(called) {
            Some(names) => names.iter().cloned().collect(),
            None => vec![called.to_owned()],
        })
    }

    /// Notes what this row's placeholders stand for.
    pub(crate) fn learn(&self, names: &mut Names, list: impl Fn(&str) -> Vec<String>) {
        for path in self.expand(list, |_| Vec::new()) {
            for (wanted, name) in self.path.split('/').zip(path.split('/')) {
                let Some(placeholder) = placeholder(wanted) else { continue };
                if let Some(filling) = filling(placeholder, name) {
                    names.entry(placeholder.1.to_owned()).or_default().insert(filling.to_owned());
                }
            }
        }
    }

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
                                .filter(|name| filling(placeholder, name).is_some())
                                .collect::<Vec<_>>();
                            if names.is_empty() {
                                let (before, called, after) = placeholder;
                                let fillings = otherwise(called).into_iter();
                                names.extend(fillings.map(|filling| format!("{before}{filling}{after}")));
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
