//! Runs the conformance cases on a mutated copy of the workspace, outside the repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::{Mutation, apply, workspace};

/// Cargo flags: no debug info; optimised dependencies, because they are built once.
const PROFILE_FLAGS: [&str; 4] = ["--config", "profile.dev.debug=0", "--config", "profile.dev.package.'*'.opt-level=1"];

/// Name of the test in `tests/conformance.rs` that runs all cases.
const TEST_NAME: &str = "all_cases_pass";

/// A copy of the workspace with a target directory of its own.
#[derive(Debug)]
pub struct WorkspaceCopy {
    dir: PathBuf,
}

impl WorkspaceCopy {
    /// Copies all files that git tracks or does not ignore, with their current content.
    ///
    /// # Errors
    /// If git fails, or a file cannot be copied.
    pub fn create(dir: PathBuf) -> anyhow::Result<Self> {
        let from = workspace();
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&from)
            .output()
            .context("cannot run git")?;
        ensure!(listed.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
        let source = dir.join("workspace");
        if source.exists() {
            std::fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))?;
        }
        for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (from.join(name), source.join(name));
            if !from.is_file() {
                continue; // deleted but still in git's index
            }
            std::fs::create_dir_all(to.parent().context("path without a parent directory")?)?;
            // Keep the modification time, or cargo rebuilds everything.
            let modified = std::fs::metadata(&from)?.modified()?;
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
            std::fs::File::options().write(true).open(&to)?.set_modified(modified)?;
        }
        Ok(Self { dir })
    }

    /// Applies mutations, runs the cases and reverts the mutations. Returns the IDs of the failed cases.
    ///
    /// # Errors
    /// If a mutation is stale, or the mutated source does not build, or the test program fails in another way.
    pub fn run_mutated(&self, mutations: &[&Mutation]) -> anyhow::Result<BTreeSet<String>> {
        let source = self.source();
        let changed = match apply(mutations, &source) {
            Ok(changed) => changed,
            Err(stale) => bail!("{stale}"),
        };
        let mut originals = Vec::new();
        for (file, _) in &changed {
            let path = source.join(file);
            originals.push((std::fs::read(&path)?, path));
        }
        let written = changed.iter().try_for_each(|(file, text)| std::fs::write(source.join(file), text));
        let failed = written.map_err(Into::into).and_then(|()| self.run());
        for (bytes, path) in originals {
            std::fs::write(path, bytes)?;
        }
        failed
    }

    /// Runs the cases on the unchanged copy. Returns the IDs of the failed cases.
    ///
    /// # Errors
    /// If the source does not build, or the test program fails in another way than by failed cases.
    pub fn run(&self) -> anyhow::Result<BTreeSet<String>> {
        let cargo_test = |arguments: &[&str]| {
            Command::new("cargo")
                .arg("test")
                .args(PROFILE_FLAGS)
                .args(["--quiet", "--package", "podmeta-tests", "--test", "conformance"])
                .args(arguments)
                .env("CARGO_TARGET_DIR", self.dir.join("target"))
                .env("RUST_BACKTRACE", "0")
                .current_dir(self.source())
                .output()
                .context("cannot run cargo")
        };
        let build = cargo_test(&["--no-run"])?;
        if !build.status.success() {
            let errors = String::from_utf8_lossy(&build.stderr);
            bail!("build failed:\n{}", errors.lines().take(40).collect::<Vec<_>>().join("\n"));
        }
        let test = cargo_test(&[TEST_NAME, "--", "--exact", "--nocapture"])?;
        let output = String::from_utf8_lossy(&test.stdout);
        let failed = output.lines().filter_map(|line| line.strip_prefix("FAILED ")?.strip_suffix(".yaml"));
        let failed = failed.map(str::to_owned).collect::<BTreeSet<_>>();
        ensure!(output.contains("1 passed") || output.contains("1 failed"), "no test {TEST_NAME} was run:\n{output}");
        let consistent = test.status.success() == failed.is_empty();
        ensure!(consistent, "the test program failed: {}", String::from_utf8_lossy(&test.stderr));
        Ok(failed)
    }

    fn source(&self) -> PathBuf {
        self.dir.join("workspace")
    }

    /// Returns the directory that contains the copy and the target directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
