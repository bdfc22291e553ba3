//! Gathers programs and libraries of the host into an image's layer: each program with every library that it is linked to,
//! where it is on the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::needs;
use crate::oci::Layer;

/// What an image will hold, by its path there.
#[derive(Debug, Default)]
pub struct RootFs(BTreeMap<PathBuf, Entry>);

#[derive(Debug)]
enum Entry {
    Host(PathBuf),
    Text(String),
    Link(PathBuf),
}

impl RootFs {
    /// What every program expects: the folders, and links where the host has them (`/bin`, `/lib`).
    #[must_use]
    pub fn new() -> Self {
        let mut files = Self::default();
        for link in ["/bin", "/sbin", "/lib", "/lib64"] {
            if let Ok(target) = fs::read_link(link) {
                files.0.insert(link.into(), Entry::Link(target));
            }
        }
        files.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
        files.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
        files.text("/etc/nsswitch.conf", "hosts: files dns\n");
        files.text("/tmp/.keep", "");
        files
    }

    /// Adds a file of this text.
    pub fn text(&mut self, path: &str, text: &str) {
        self.0.insert(path.into(), Entry::Text(text.to_owned()));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &Path) {
        self.0.insert(path.into(), Entry::Link(target.to_owned()));
    }

    /// Adds a file of the host under another name.
    pub fn file(&mut self, path: &str, source: &Path) {
        self.0.insert(path.into(), Entry::Host(source.to_owned()));
    }

    /// Adds a program by its name, with its libraries, under the name that it has on the host.
    ///
    /// # Errors
    /// If the host has no such program.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let path = needs::find(name).with_context(|| format!("{name} is missing on this machine"))?;
        self.linked(&path)
    }

    /// Adds a file of the host, with the libraries that it is linked to.
    ///
    /// # Errors
    /// If the libraries cannot be found.
    pub fn linked(&mut self, path: &Path) -> Result<()> {
        self.host(path)?;
        self.libraries(path)
    }

    /// Adds the libraries that a file of the host is linked to, without the file.
    ///
    /// # Errors
    /// If they cannot be found.
    pub fn libraries(&mut self, path: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(path).output().context("cannot run ldd")?;
        // A program without libraries is none to ldd, and is well.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            ensure!(!line.contains("not found"), "{}: {}", path.display(), line.trim());
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.host(Path::new(library))?;
            }
        }
        Ok(())
    }

    /// Adds a folder of the host at another place, with the libraries of what is linked in it, but leaves out what has one
    /// of these names; `*` at the end of a name stands for anything.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tree(&mut self, path: &Path, source: &Path, leave: &[&str]) -> Result<()> {
        let entries = fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
        for entry in entries {
            let entry = entry?;
            let (name, from) = (entry.file_name(), entry.path());
            if leave.iter().any(|left| name.to_str().is_some_and(|name| matches(left, name))) {
                continue;
            }
            let to = path.join(&name);
            if fs::metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                self.tree(&to, &from, leave)?;
            } else {
                if from.extension().is_some_and(|extension| extension == "so") {
                    self.libraries(&from)?;
                }
                self.0.insert(to, Entry::Host(from));
            }
        }
        Ok(())
    }

    /// Adds a file of the host where it is, below the folder that links lead to.
    fn host(&mut self, path: &Path) -> Result<()> {
        let folder = path.parent().context("a program is in a folder")?;
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let place = folder.join(path.file_name().context("a program has a name")?);
        self.0.insert(place, Entry::Host(path.to_owned()));
        Ok(())
    }

    /// What the image is made of, for its digest: names, sizes and times.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let stamp = |entry: &Entry| match entry {
            Entry::Host(source) => fs::metadata(source)
                .map(|metadata| format!("{} {:?}", metadata.len(), metadata.modified().ok()))
                .unwrap_or_default(),
            Entry::Text(text) => text.clone(),
            Entry::Link(target) => target.display().to_string(),
        };
        self.0.iter().map(|(path, entry)| format!("{} {}\n", path.display(), stamp(entry))).collect()
    }

    /// Writes everything into a layer, folders first.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write(&self, layer: &mut Layer) -> Result<()> {
        let mut folders: Vec<&Path> = self.0.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders.into_iter().filter(|folder| folder.parent().is_some()) {
            layer.folder(folder)?;
        }
        for (path, entry) in &self.0 {
            match entry {
                Entry::Host(source) => layer.file(path, source)?,
                Entry::Text(text) => layer.text(path, text)?,
                Entry::Link(target) => layer.link(path, target)?,
            }
        }
        Ok(())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}
