//! The files of an image: programs of this host with the libraries that they are linked to, at their paths on the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::oci::LayerWriter;
use crate::prerequisites::find_program;

/// The files of an image, by their path in the image.
#[derive(Debug, Default)]
pub(super) struct RootFs(BTreeMap<PathBuf, FileSource>);

/// The content of a file in an image.
#[derive(Debug)]
enum FileSource {
    /// A file of the host.
    Host(PathBuf),
    Text(String),
    /// A symbolic link to this path.
    Link(PathBuf),
}

impl RootFs {
    /// Returns the files that programs expect: user names, `/tmp`, and links such as `/bin` if the host has them.
    #[must_use]
    pub(super) fn with_base_files() -> Self {
        let mut files = Self::default();
        for link in ["/bin", "/sbin", "/lib", "/lib64"] {
            if let Ok(target) = fs::read_link(link) {
                files.0.insert(link.into(), FileSource::Link(target));
            }
        }
        files.add_text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
        files.add_text("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
        files.add_text("/etc/nsswitch.conf", "hosts: files dns\n");
        files.add_text("/tmp/.keep", "");
        files
    }

    /// Adds a file with this content.
    pub(super) fn add_text(&mut self, path: &str, text: &str) {
        self.0.insert(path.into(), FileSource::Text(text.to_owned()));
    }

    /// Adds a symbolic link.
    pub(super) fn add_link(&mut self, path: &str, target: &Path) {
        self.0.insert(path.into(), FileSource::Link(target.to_owned()));
    }

    /// Adds a file of the host at another path.
    pub(super) fn add_file(&mut self, path: &str, source: &Path) {
        self.0.insert(path.into(), FileSource::Host(source.to_owned()));
    }

    /// Adds a program of the host with its libraries, at its path on the host.
    ///
    /// # Errors
    /// If the host has no such program.
    pub(super) fn add_program(&mut self, name: &str) -> Result<()> {
        let path = find_program(name).with_context(|| format!("program {name} is not installed"))?;
        self.add_with_libraries(&path)
    }

    /// Adds a file of the host with the libraries that it is linked to, at its path on the host.
    ///
    /// # Errors
    /// If a library cannot be found.
    pub(super) fn add_with_libraries(&mut self, path: &Path) -> Result<()> {
        self.add_host_file(path)?;
        self.add_libraries(path)
    }

    /// Adds the libraries that a file of the host is linked to, without the file.
    ///
    /// # Errors
    /// If a library cannot be found.
    pub(super) fn add_libraries(&mut self, path: &Path) -> Result<()> {
        libraries(path)?.iter().try_for_each(|library| self.add_host_file(library))
    }

    /// Adds a directory of the host at another path, with the libraries of its shared objects. Skips entries whose name
    /// matches an element of `excluded`, which can end with `*`.
    ///
    /// # Errors
    /// If the directory cannot be read, or a library cannot be found.
    pub(super) fn add_tree(&mut self, path: &Path, source: &Path, excluded: &[&str]) -> Result<()> {
        let entries = fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
        for entry in entries {
            let entry = entry?;
            let (name, from) = (entry.file_name(), entry.path());
            if excluded.iter().any(|pattern| name.to_str().is_some_and(|name| matches(pattern, name))) {
                continue;
            }
            let to = path.join(&name);
            if fs::metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                self.add_tree(&to, &from, excluded)?;
            } else {
                if from.extension().is_some_and(|extension| extension == "so") {
                    self.add_libraries(&from)?;
                }
                self.0.insert(to, FileSource::Host(from));
            }
        }
        Ok(())
    }

    /// Adds a file of the host at its path, with symbolic links in the directory resolved.
    fn add_host_file(&mut self, path: &Path) -> Result<()> {
        let dir = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let resolved = dir.join(path.file_name().with_context(|| format!("{} has no file name", path.display()))?);
        self.0.insert(resolved, FileSource::Host(path.to_owned()));
        Ok(())
    }

    /// Returns a text that changes when a file changes: paths, sizes and modification times.
    #[must_use]
    pub(super) fn fingerprint(&self) -> String {
        let stamp = |entry: &FileSource| match entry {
            FileSource::Host(source) => fs::metadata(source)
                .map(|metadata| format!("{} {:?}", metadata.len(), metadata.modified().ok()))
                .unwrap_or_default(),
            FileSource::Text(text) => text.clone(),
            FileSource::Link(target) => target.display().to_string(),
        };
        self.0.iter().map(|(path, entry)| format!("{} {}\n", path.display(), stamp(entry))).collect()
    }

    /// Writes all files to a layer, directories first.
    ///
    /// # Errors
    /// If a file cannot be read, or the layer cannot be written.
    pub(super) fn write(&self, layer: &mut LayerWriter) -> Result<()> {
        let mut dirs: Vec<&Path> = self.0.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs.into_iter().filter(|dir| dir.parent().is_some()) {
            layer.add_dir(dir)?;
        }
        for (path, source) in &self.0 {
            match source {
                FileSource::Host(file) => layer.add_file(path, file)?,
                FileSource::Text(text) => layer.add_text(path, text)?,
                FileSource::Link(target) => layer.add_link(path, target)?,
            }
        }
        Ok(())
    }
}

/// Returns the libraries that a program is linked to. A static program has none.
///
/// # Errors
/// If a library cannot be found.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let mut libraries = Vec::new();
    // The exit code is ignored: ldd fails for static programs.
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        ensure!(!line.contains("not found"), "{}: {}", program.display(), line.trim());
        libraries.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(libraries)
}

/// True if the name matches a pattern, which can end with `*`.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}
