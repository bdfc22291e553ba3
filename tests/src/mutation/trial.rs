//! Tries mutations: a copy of the workspace outside the repository is changed, built, and the cases are played with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::{Mutation, changed, workspace};

/// Builds small and soon; the dependencies are built once.
const FLAGS: [&str; 4] = ["--config", "profile.dev.debug=0", "--config", "profile.dev.package.'*'.opt-level=1"];

/// A copy of the workspace.
#[derive(Debug)]
pub struct Copy {
    folder: PathBuf,
}

impl Copy {
    /// Copies every file that git knows or would take, as it is now.
    ///
    /// # Errors
    /// If git cannot be asked, or a file not be copied.
    pub fn make(folder: PathBuf) -> anyhow::Result<Self> {
        let from = workspace();
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&from)
            .output()
            .context("cannot ask git which files there are")?;
        ensure!(listed.status.success(), "git does not say which files there are");
        let source = folder.join("workspace");
        if source.exists() {
            std::fs::remove_dir_all(&source).with_context(|| format!("cannot empty {}", source.display()))?;
        }
        for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (from.join(name), source.join(name));
            if !from.is_file() {
                continue; // deleted, but not in git yet
            }
            std::fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            // Its time is kept, so that what did not change is not built again.
            let modified = std::fs::metadata(&from)?.modified()?;
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
            std::fs::File::options().write(true).open(&to)?.set_modified(modified)?;
        }
        Ok(Self { folder })
    }

    /// Plays the cases with some mutations, and takes them back: the cases that failed.
    ///
    /// # Errors
    /// If the mutated source does not build, or the runner does not end as it should.
    pub fn try_out(&self, mutations: &[&Mutation]) -> anyhow::Result<BTreeSet<String>> {
        let source = self.source();
        let changed = changed(mutations, &source)?;
        let mut kept = Vec::new();
        for (file, text) in &changed {
            let path = source.join(file);
            kept.push((path.clone(), std::fs::read(&path)?));
            std::fs::write(&path, text)?;
        }
        let failed = self.play();
        for (path, bytes) in kept {
            std::fs::write(path, bytes)?;
        }
        failed
    }

    /// Plays the cases with the copy as it is: those that failed.
    ///
    /// # Errors
    /// If the source does not build, or the runner does not end as it should.
    pub fn play(&self) -> anyhow::Result<BTreeSet<String>> {
        let run = |arguments: &[&str]| {
            Command::new("cargo")
                .arg("test")
                .args(FLAGS)
                .args(["--quiet", "--package", "podmeta-tests", "--test", "conformance"])
                .args(arguments)
                .env("CARGO_TARGET_DIR", self.folder.join("target"))
                .env("RUST_BACKTRACE", "0")
                .current_dir(self.source())
                .output()
                .context("cannot run cargo")
        };
        let built = run(&["--no-run"])?;
        if !built.status.success() {
            let errors = String::from_utf8_lossy(&built.stderr);
            bail!("it does not build:\n{}", errors.lines().take(40).collect::<Vec<_>>().join("\n"));
        }
        let played = run(&["every_case_holds", "--", "--exact", "--nocapture"])?;
        let output = String::from_utf8_lossy(&played.stdout);
        let failed = output.lines().filter_map(|line| line.strip_prefix("FAILED ")?.strip_suffix(".yaml"));
        let failed = failed.map(str::to_owned).collect::<BTreeSet<_>>();
        let ended = played.status.success() == failed.is_empty();
        ensure!(ended, "the runner did not end as it should: {}", String::from_utf8_lossy(&played.stderr));
        Ok(failed)
    }

    fn source(&self) -> PathBuf {
        self.folder.join("workspace")
    }

    /// The folder of the copy and of what is built of it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
