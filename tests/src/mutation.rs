//! Mutation tests of the conformance cases. A mutation removes one rule from the source; its `kills` are the cases that
//! fail without the rule.
//!
//! `tests/mutations` is a record of such edits, as text snippets. A snippet goes stale when the source around it changes,
//! so no default test reads the source through it. `make mutations` reports stale mutations and runs the others.

pub mod batch;
pub mod page;
pub mod runner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// One removed rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// Behaviour of the mutated source. Unique.
    pub name: String,
    /// The changes of the source.
    pub edits: Vec<Edit>,
    /// IDs of the cases that fail with it, `ec2/NAME` or `ecs/NAME`. No other case fails.
    pub kills: Vec<String>,
}

/// One change of one file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Path from the root of the workspace.
    pub file: PathBuf,
    /// Text that occurs exactly once in the file.
    pub find: String,
    /// Its replacement.
    pub replace: String,
}

/// The last run in which every mutation killed exactly its cases.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LastRun {
    /// Abbreviated commit hash of the tested source.
    pub commit: String,
    /// Date of the run, `YYYY-MM-DD`.
    pub date: String,
    /// Runs of some mutations after that run, in which their cases failed.
    #[serde(default)]
    pub partial: Vec<PartialRun>,
    /// Names of mutations that were added or changed after the run.
    #[serde(default)]
    pub changed: Vec<String>,
}

/// A run of some mutations. The record does not name them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PartialRun {
    /// Date of the run, `YYYY-MM-DD`.
    pub date: String,
    /// Number of mutations.
    pub mutations: usize,
}

const LAST_RUN_FILE: &str = "last-run.yaml";

/// Returns the root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn mutations_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations")
}

/// Reads all mutations, in the order of their files.
///
/// # Errors
/// If a file is invalid, a mutation has no edit, or two mutations have the same name.
pub fn read_all() -> anyhow::Result<Vec<Mutation>> {
    let dir = mutations_dir();
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| !file.ends_with(LAST_RUN_FILE));
    files.sort();
    let mut mutations = Vec::<Mutation>::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let read: Vec<Mutation> =
            serde_saphyr::from_str(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        mutations.extend(read);
    }
    let mut names = BTreeSet::new();
    for mutation in &mutations {
        ensure!(!mutation.edits.is_empty(), "mutation {:?} has no edits", mutation.name);
        ensure!(names.insert(mutation.name.as_str()), "duplicate mutation name {:?}", mutation.name);
    }
    Ok(mutations)
}

impl LastRun {
    /// Reads the record.
    ///
    /// # Errors
    /// If the file is missing or invalid.
    pub fn read() -> anyhow::Result<Self> {
        let file = mutations_dir().join(LAST_RUN_FILE);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("cannot parse {}", file.display()))
    }

    /// Writes the commit and the date. A run of all mutations leaves none that changed after it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let text = format!(
            "# The last run of all mutations in which each case failed as recorded. `make mutations` writes this file.\n\
             commit: {}\ndate: {}\n",
            self.commit, self.date
        );
        Ok(std::fs::write(mutations_dir().join(LAST_RUN_FILE), text)?)
    }
}

/// Error of a mutation that cannot be applied to the source.
#[derive(Debug)]
pub struct StaleEdit {
    /// Name of the mutation.
    pub mutation: String,
    /// The file that the edit names.
    pub file: PathBuf,
    /// The text to replace.
    pub find: String,
    /// Problem of the edit.
    pub problem: String,
}

impl std::fmt::Display for StaleEdit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stale mutation: {}\n  file: {}\n  problem: {}", self.mutation, self.file.display(), self.problem)?;
        write!(f, "\n  snippet: {:?}", self.find)
    }
}

/// Applies mutations, one after the other, to the files of a workspace in memory. Returns the changed files.
///
/// # Errors
/// The first edit that does not apply: its file is unreadable, or its snippet does not occur exactly once.
pub fn apply(mutations: &[&Mutation], workspace: &Path) -> Result<Vec<(PathBuf, String)>, StaleEdit> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for mutation in mutations {
        for edit in &mutation.edits {
            let stale = |problem: String| StaleEdit {
                mutation: mutation.name.clone(),
                file: edit.file.clone(),
                find: edit.find.clone(),
                problem,
            };
            let known = files.iter().position(|(file, _)| *file == edit.file);
            let (file, text) = match known {
                Some(at) => files.swap_remove(at),
                None => match std::fs::read_to_string(workspace.join(&edit.file)) {
                    Ok(text) => (edit.file.clone(), text),
                    Err(error) => return Err(stale(format!("cannot read the file: {error}"))),
                },
            };
            let count = text.matches(&edit.find).count();
            if count != 1 {
                return Err(stale(format!("the snippet occurs {count} times, not once")));
            }
            if edit.find == edit.replace {
                return Err(stale("the replacement equals the snippet".to_owned()));
            }
            files.push((file, text.replacen(&edit.find, &edit.replace, 1)));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutation(file: &str, find: &str) -> Mutation {
        let edit = Edit { file: file.into(), find: find.to_owned(), replace: "x".to_owned() };
        Mutation { name: "m".to_owned(), edits: vec![edit], kills: Vec::new() }
    }

    #[test]
    fn edit_is_stale_if_file_is_missing_or_snippet_does_not_occur_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let apply_one = |file, find| apply(&[&mutation(file, find)], root);
        let changed = apply_one("Cargo.toml", "\"podmeta-tests\"").unwrap();
        assert!(changed.iter().any(|(_, text)| text.contains("name = x")));
        assert!(apply_one("missing.rs", "a").unwrap_err().problem.contains("cannot read"));
        assert!(apply_one("Cargo.toml", "no such text").unwrap_err().problem.contains("0 times"));
        assert!(apply_one("Cargo.toml", "workspace = true").unwrap_err().to_string().contains("snippet"));
    }
}
