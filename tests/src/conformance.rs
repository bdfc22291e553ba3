//! Conformance: each case is a file with one rule of a cloud's metadata service and the requests that show it. They are
//! played against the agent's own edge, byte for byte, over a pipe in memory and a clock that only the cases move.
//!
//! `cases/objects` has the Kubernetes objects that are there; `cases/ec2` and `cases/ecs` have the cases. The form of a
//! case is [`case::Case`].

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
use self::case::Case;
pub(crate) use self::wire::pipe;

/// A case and the file it came from.
#[derive(Debug)]
pub struct CaseFile {
    /// The folder it is in.
    pub dialect: Dialect,
    /// The file's name without its extension.
    pub name: String,
    /// The case, or why it cannot be read.
    pub case: anyhow::Result<Case>,
}

impl CaseFile {
    /// The case's folder and name.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.dialect, self.name)
    }

    /// The file below `cases/`.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.yaml", self.id())
    }
}

/// The folder of the cases.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Reads all cases of `folder`, in the order of their names.
///
/// # Errors
/// If a folder or a file cannot be read. A file that is not a case is in the list.
pub fn read_all(folder: &Path) -> anyhow::Result<Vec<CaseFile>> {
    let mut all = Vec::new();
    for dialect in Dialect::ALL {
        let place = folder.join(dialect.as_str());
        for entry in std::fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.push(CaseFile { dialect, name, case: Case::read(&text) });
        }
    }
    all.sort_by(|a, b| (a.dialect, &a.name).cmp(&(b.dialect, &b.name)));
    Ok(all)
}

/// Plays cases, as many at once as there are processors. Gives the reports of those that failed, in order.
#[must_use]
pub fn play(folder: &Path, cases: &[CaseFile]) -> Vec<Failure> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(found) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let played = match &found.case {
                Ok(case) => std::panic::catch_unwind(|| run::play(folder, found.dialect, case))
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked"))),
                Err(error) => Err(anyhow::anyhow!("it is not a case: {error:#}")),
            };
            if let Err(error) = played {
                let failure = Failure { file: found.file(), report: format!("{error:#}") };
                failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failures.sort_by(|a, b| a.file.cmp(&b.file));
    failures
}

/// A case that failed.
#[derive(Debug)]
pub struct Failure {
    /// The case's file below `cases/`.
    pub file: String,
    /// The step, what was expected and what came.
    pub report: String,
}
