//! Tries the mutations of `tests/mutations` on a copy of the workspace, and writes docs/conformance.md.
//!
//! `mutations [--dir FOLDER] [--only TEXT]`: with `--only` it tries the mutations whose name has the text, each in a
//! build of its own, says which cases fail, and writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use podmeta_tests::conformance::{Found, folder, read_all};
use podmeta_tests::mutation::pack::pack;
use podmeta_tests::mutation::table::page;
use podmeta_tests::mutation::trial::Copy;
use podmeta_tests::mutation::{self, Mutation, workspace};

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
    let mutations = mutation::read_all()?;
    let copy = Copy::make(place)?;
    println!("the copy is in {}", copy.folder().display());
    let failed = copy.play()?;
    anyhow::ensure!(failed.is_empty(), "without a mutation these fail: {failed:?}");
    let wrong = match only {
        Some(text) => {
            mutations.iter().filter(|mutation| mutation.name.contains(&text)).map(|one| each(&copy, one)).sum()
        }
        None => all(&copy, &mutations)?,
    };
    println!("{wrong} problems");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tries all mutations, several in one build where their cases tell them apart, and writes the page.
fn all(copy: &Copy, mutations: &[Mutation]) -> anyhow::Result<usize> {
    let builds = pack(mutations, &workspace())?;
    let mut wrong = 0;
    for (at, build) in builds.iter().enumerate() {
        let names = build.iter().map(|mutation| mutation.name.as_str()).collect::<Vec<_>>();
        println!("build {} of {}: {}", at + 1, builds.len(), names.join("; "));
        let expected = build.iter().flat_map(|mutation| mutation.kills.iter().cloned()).collect();
        match copy.try_out(build) {
            Ok(failed) if failed == expected => {}
            // Something is not as it was noted, or two mutations get in each other's way: each must tell.
            Ok(_) | Err(_) => wrong += build.iter().map(|mutation| each(copy, mutation)).sum::<usize>(),
        }
    }
    let cases = read_all(&folder())?;
    let alive = cases.iter().map(Found::id).filter(|case| !mutations.iter().any(|one| one.kills.contains(case)));
    for case in alive {
        println!("    NEVER FAILED {case}");
        wrong += 1;
    }
    if wrong == 0 {
        std::fs::write(workspace().join("docs/conformance.md"), page(&cases, mutations))?;
        println!("{} mutations in {} builds, {} cases killed", mutations.len(), builds.len(), cases.len());
    }
    Ok(wrong)
}

/// Tries one mutation and prints what is not as it was noted: how much that is.
fn each(copy: &Copy, mutation: &Mutation) -> usize {
    match copy.try_out(&[mutation]) {
        Ok(failed) => {
            println!("  {}: {} cases fail", mutation.name, failed.len());
            let survivors = mutation.kills.iter().filter(|case| !failed.contains(*case)).collect::<Vec<_>>();
            let others = failed.iter().filter(|case| !mutation.kills.contains(case)).collect::<Vec<_>>();
            for case in &survivors {
                println!("    SURVIVED {case}");
            }
            for case in &others {
                println!("    also {case}");
            }
            survivors.len() + others.len()
        }
        Err(error) => {
            println!("  {}: {error:#}", mutation.name);
            1
        }
    }
}
