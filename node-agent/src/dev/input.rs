//! Reads the input of `dev`: files, directories and standard input. Does not parse it.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// The name, as given on the command line.
    pub name: String,
    /// The content.
    pub text: String,
}

/// The inputs of the command line. Standard input is read once.
#[derive(Debug)]
pub(super) struct Inputs {
    paths: Vec<PathBuf>,
    standard_input: Option<InputFile>,
}

impl Inputs {
    /// Creates the inputs. Reads standard input if `-` is one of the paths.
    ///
    /// # Errors
    /// If standard input cannot be read or is not UTF-8.
    pub(super) fn new(paths: Vec<PathBuf>) -> Result<Self> {
        let is_standard_input = |path: &PathBuf| path.as_os_str() == "-";
        let standard_input = if paths.iter().any(is_standard_input) {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            Some(InputFile { name: "-".to_owned(), text })
        } else {
            None
        };
        Ok(Self { paths: paths.into_iter().filter(|path| !is_standard_input(path)).collect(), standard_input })
    }

    /// Reads all files. The files of a directory are sorted by name.
    ///
    /// # Errors
    /// If a path does not exist or cannot be read, or a directory has no file of a known type.
    pub(super) fn read(&self) -> Result<Vec<InputFile>> {
        let mut files = Vec::from_iter(self.standard_input.clone());
        for path in &self.paths {
            let is_directory = path.is_dir();
            let paths = if is_directory { files_in(path)? } else { vec![path.clone()] };
            if paths.is_empty() {
                bail!("{} contains no .yaml, .yml or .json file", path.display());
            }
            for path in paths {
                let name = path.display().to_string();
                match fs::read_to_string(&path) {
                    Ok(text) => files.push(InputFile { name, text }),
                    // An editor may have removed it since the directory was read.
                    Err(error) if is_directory && error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
                }
            }
        }
        Ok(files)
    }
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
