//! Tries the mutations of `tests/mutations` on a copy of the workspace, and writes docs/conformance.md.
//!
//! `mutations [--dir FOLDER] [--only TEXT]`: with `--only` it tries the mutations whose name has the text, says which
//! cases fail, and writes nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use podmeta_tests::conformance::{folder, read_all};
use podmeta_tests::mutation::table::{Seen, page};
use podmeta_tests::mutation::trial::Copy;
use podmeta_tests::mutation::{self, workspace};

fn main() -> anyhow::Result<ExitCode> {
    let (mut place, mut only) = (std::env::temp_dir().join("podmeta-mutations"), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--dir", Some(folder)) => place = PathBuf::from(folder),
            ("--only", Some(text)) => only = Some(text),
            (other, _) => anyhow::bail!("{other}: there are --dir FOLDER and --only TEXT"),
        }
    }
    let cases = read_all(&folder())?;
    let mutations = mutation::read_all()?;
    let copy = Copy::make(place)?;
    println!("the copy is in {}", copy.folder().display());
    let failed = copy.play()?;
    anyhow::ensure!(failed.is_empty(), "without a mutation these fail: {failed:?}");
    let (mut seen, mut bad) = (Vec::new(), 0);
    for mutation in &mutations {
        if only.as_ref().is_some_and(|text| !mutation.name.contains(text.as_str())) {
            continue;
        }
        match copy.try_out(mutation) {
            Ok(failed) => {
                println!("{}: {} cases fail", mutation.name, failed.len());
                let survivors = mutation.kills.iter().filter(|case| !failed.contains(*case)).collect::<Vec<_>>();
                for case in &survivors {
                    println!("    SURVIVED {case}");
                }
                bad += survivors.len();
                for case in failed.iter().filter(|case| !mutation.kills.contains(case)) {
                    println!("    also {case}");
                }
                seen.push(Seen { mutation, failed });
            }
            Err(error) => {
                println!("{}: {error:#}", mutation.name);
                bad += 1;
            }
        }
    }
    let killed = seen.iter().flat_map(|trial| trial.failed.iter().filter(|case| trial.mutation.kills.contains(case)));
    let killed = killed.collect::<BTreeSet<_>>();
    let alive = cases.iter().map(podmeta_tests::conformance::Found::id).filter(|case| !killed.contains(case));
    let alive = alive.collect::<Vec<_>>();
    if only.is_none() {
        for case in &alive {
            println!("NEVER FAILED {case}");
        }
        std::fs::write(workspace().join("docs/conformance.md"), page(&cases, &seen))?;
        bad += alive.len();
    }
    println!("{} mutations, {} cases killed, {bad} problems", seen.len(), killed.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
