//! Conformance tests. Each case is a file with one rule of a cloud's metadata service and the requests that verify it.
//! Cases run against the edge of the node agent over an in-memory pipe, with a clock that the case controls.
//!
//! `cases/objects` has the Kubernetes objects, `cases/ec2` and `cases/ecs` have the cases. [`case::ConformanceCase`] defines the
//! file format.

mod agent;
pub mod case;
pub mod expect;
mod objects;
mod run;
mod saved;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use podmeta_metadata::dialect::Dialect;

pub(crate) use self::agent::signer;
use self::case::ConformanceCase;
pub(crate) use self::wire::pipe;

/// A case and its file.
#[derive(Debug)]
pub struct CaseFile {
    /// The dialect, from the directory of the file.
    pub dialect: Dialect,
    /// The file name without extension.
    pub name: String,
    /// The case, or the parse error.
    pub case: anyhow::Result<ConformanceCase>,
}

impl CaseFile {
    /// Returns the ID of the case: `dialect/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.dialect, self.name)
    }

    /// Returns the path of the file below `cases/`.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.yaml", self.id())
    }
}

/// Returns the directory of the cases.
#[must_use]
pub fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Reads all cases of `cases_dir`, sorted by dialect and name. A file that is not a valid case is part of the result.
///
/// # Errors
/// If a directory or a file cannot be read.
pub fn read_all(cases_dir: &Path) -> anyhow::Result<Vec<CaseFile>> {
    let mut all = Vec::new();
    for dialect in Dialect::ALL {
        let directory = cases_dir.join(dialect.as_str());
        for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.push(CaseFile { dialect, name, case: ConformanceCase::read(&text) });
        }
    }
    all.sort_by(|a, b| (a.dialect, &a.name).cmp(&(b.dialect, &b.name)));
    Ok(all)
}

/// Runs cases on one thread per processor. Returns the failed cases, sorted by file.
#[must_use]
pub fn run_cases(cases_dir: &Path, cases: &[CaseFile]) -> Vec<FailedCase> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let worker = || {
        while let Some(file) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = match &file.case {
                Ok(case) => std::panic::catch_unwind(|| run::run_case(cases_dir, file.dialect, case))
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("the case panicked"))),
                Err(error) => Err(anyhow::anyhow!("invalid case: {error:#}")),
            };
            if let Err(error) = result {
                let failure = FailedCase { file: file.file(), report: format!("{error:#}") };
                failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(worker);
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failures.sort_by(|a, b| a.file.cmp(&b.file));
    failures
}

/// A failed case.
#[derive(Debug)]
pub struct FailedCase {
    /// The path of the file below `cases/`.
    pub file: String,
    /// The failed step with the expected and the actual result.
    pub report: String,
}
