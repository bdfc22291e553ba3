//! Reads the files that are given to `dev`: files, folders and standard input. Knows nothing of what is in them.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file's name, as it was given.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// The places that objects are read from. Standard input is read once, and remembered.
#[derive(Debug)]
pub struct Files {
    places: Vec<PathBuf>,
    standard_input: Option<Text>,
}

impl Files {
    /// The places that were given; reads standard input if it is one of them.
    ///
    /// # Errors
    /// If standard input cannot be read or is not UTF-8.
    pub fn new(places: Vec<PathBuf>) -> Result<Self> {
        let is_input = |place: &PathBuf| place.as_os_str() == "-";
        let standard_input = if places.iter().any(is_input) {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            Some(Text { name: "-".to_owned(), text })
        } else {
            None
        };
        Ok(Self { places: places.into_iter().filter(|place| !is_input(place)).collect(), standard_input })
    }

    /// Reads all files, those of a folder by name.
    ///
    /// # Errors
    /// If a place is not there, cannot be read, or holds nothing to read.
    pub fn read(&self) -> Result<Vec<Text>> {
        let mut texts = Vec::from_iter(self.standard_input.clone());
        for place in &self.places {
            let folder = place.is_dir();
            let files = if folder { files_in(place)? } else { vec![place.clone()] };
            if files.is_empty() {
                bail!("{} holds no .yaml, .yml or .json file", place.display());
            }
            for file in files {
                let name = file.display().to_string();
                match fs::read_to_string(&file) {
                    Ok(text) => texts.push(Text { name, text }),
                    // An editor may have it away for a moment; it counts as gone.
                    Err(error) if folder && error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
                }
            }
        }
        Ok(texts)
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(kind, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
