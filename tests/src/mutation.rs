//! Mutations: rules that are taken out of the source one at a time, to see that the conformance cases notice. The files
//! of `mutations/` have them; `cargo run -p podmeta-tests --bin mutations` tries them on a copy of the workspace and
//! writes what it saw to docs/conformance.md.

pub mod pack;
pub mod table;
pub mod trial;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// One rule, and the source without it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// What the mutated source does, in a few words; no two mutations have the same.
    pub name: String,
    /// What is changed.
    pub edits: Vec<Edit>,
    /// The cases that fail with it, as `ec2/NAME` and `ecs/NAME`: these and no others.
    pub kills: Vec<String>,
}

/// One change of a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, from the workspace's folder on.
    pub file: PathBuf,
    /// A text that stands in it once.
    pub find: String,
    /// What stands there instead.
    pub replace: String,
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads all mutations, file by file.
///
/// # Errors
/// If a file cannot be read, or two mutations have one name.
pub fn read_all() -> anyhow::Result<Vec<Mutation>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    let (mut all, mut names) = (Vec::<Mutation>::new(), BTreeSet::new());
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let read: Vec<Mutation> =
            serde_saphyr::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?;
        all.extend(read);
    }
    for mutation in &all {
        ensure!(!mutation.edits.is_empty(), "the mutation {:?} changes nothing", mutation.name);
        ensure!(names.insert(mutation.name.as_str()), "two mutations are called {:?}", mutation.name);
    }
    Ok(all)
}

impl Mutation {
    /// The files that it changes, with their new texts, given the folder of a workspace.
    ///
    /// # Errors
    /// If a file cannot be read, or a text does not stand in it exactly once.
    pub fn changed(&self, workspace: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
        changed(&[self], workspace)
    }
}

/// The files that several mutations change together, with their new texts.
///
/// # Errors
/// If a file cannot be read, or a text does not stand in it exactly once when its turn comes.
pub fn changed(mutations: &[&Mutation], workspace: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for mutation in mutations {
        for edit in &mutation.edits {
            let at = match files.iter().position(|(file, _)| *file == edit.file) {
                Some(at) => at,
                None => {
                    let text = std::fs::read_to_string(workspace.join(&edit.file))
                        .with_context(|| format!("cannot read {}", edit.file.display()))?;
                    files.push((edit.file.clone(), text));
                    files.len() - 1
                }
            };
            let Some((_, text)) = files.get_mut(at) else { bail!("it was put there") };
            let count = text.matches(&edit.find).count();
            let file = edit.file.display();
            ensure!(count == 1, "{}: {:?} stands {count} times in {file}", mutation.name, edit.find);
            ensure!(edit.find != edit.replace, "{}: an edit changes nothing", mutation.name);
            *text = text.replacen(&edit.find, &edit.replace, 1);
        }
    }
    Ok(files)
}
