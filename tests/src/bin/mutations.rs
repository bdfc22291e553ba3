//! Runs the mutations of `tests/mutations` on a copy of the workspace.
//!
//! Stale mutations are reported first and skipped. The exit code is 1 if a mutation is stale, or does not kill exactly
//! its cases, or a case is killed by none. Otherwise a full run writes `tests/mutations/last-run.yaml` and
//! docs/conformance.md.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser;
use podmeta_tests::conformance::{CaseFile, cases_dir, read_all};
use podmeta_tests::mutation::batch::batches;
use podmeta_tests::mutation::page::render;
use podmeta_tests::mutation::runner::WorkspaceCopy;
use podmeta_tests::mutation::{self, LastRun, Mutation, apply, workspace};

/// Run the mutations of tests/mutations on a copy of the workspace
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory of the copy and of its build output [default: podmeta-mutations in the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Run only mutations whose name contains TEXT, one per build, and write no files
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["list_stale", "page"])]
    only: Option<String>,
    /// Only report stale mutations
    #[arg(long)]
    list_stale: bool,
    /// Only write docs/conformance.md
    #[arg(long, conflicts_with = "list_stale")]
    page: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mutations = mutation::read_all()?;
    if arguments.page {
        write_page(&mutations, &LastRun::read()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut current = Vec::new();
    let mut problems = 0;
    for mutation in &mutations {
        match apply(&[mutation], &workspace()) {
            Ok(_) => current.push(mutation),
            Err(stale) => {
                println!("{stale}");
                problems += 1;
            }
        }
    }
    println!("{} mutations, {problems} stale", mutations.len());
    if !arguments.list_stale {
        let dir = arguments.dir.unwrap_or_else(|| std::env::temp_dir().join("podmeta-mutations"));
        let copy = WorkspaceCopy::create(dir)?;
        println!("copied the workspace to {}", copy.dir().display());
        let failed = copy.run()?;
        anyhow::ensure!(failed.is_empty(), "cases fail without a mutation: {failed:?}");
        problems += match arguments.only {
            Some(text) => {
                current.iter().filter(|mutation| mutation.name.contains(&text)).map(|one| run_one(&copy, one)).sum()
            }
            None => {
                let run_problems = run_all(&copy, &current)?;
                if problems + run_problems == 0 {
                    let last_run = describe_run()?;
                    last_run.write()?;
                    write_page(&mutations, &last_run)?;
                }
                run_problems
            }
        };
    }
    println!("{problems} problems");
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs mutations in batches. Returns the number of problems.
fn run_all(copy: &WorkspaceCopy, mutations: &[&Mutation]) -> anyhow::Result<usize> {
    let batches = batches(mutations, &workspace());
    let mut problems = 0;
    for (at, batch) in batches.iter().enumerate() {
        let names = batch.iter().map(|mutation| mutation.name.as_str()).collect::<Vec<_>>();
        println!("build {} of {}: {}", at + 1, batches.len(), names.join("; "));
        let expected = batch.iter().flat_map(|mutation| mutation.kills.iter().cloned()).collect();
        match copy.run_mutated(batch) {
            Ok(failed) if failed == expected => {}
            // Run each on its own to find out which mutation differs, or whether two of them interfere.
            Ok(_) | Err(_) => problems += batch.iter().map(|mutation| run_one(copy, mutation)).sum::<usize>(),
        }
    }
    let cases = read_all(&cases_dir())?;
    let survivors = cases.iter().map(CaseFile::id).filter(|case| !mutations.iter().any(|one| one.kills.contains(case)));
    for case in survivors {
        println!("    NOT KILLED {case}");
        problems += 1;
    }
    println!("ran {} mutations in {} builds on {} cases", mutations.len(), batches.len(), cases.len());
    Ok(problems)
}

/// Runs one mutation and prints the differences from its record. Returns their number.
fn run_one(copy: &WorkspaceCopy, mutation: &Mutation) -> usize {
    match copy.run_mutated(&[mutation]) {
        Ok(failed) => {
            println!("  {}: {} cases fail", mutation.name, failed.len());
            let survivors = mutation.kills.iter().filter(|case| !failed.contains(*case)).collect::<Vec<_>>();
            let unrecorded = failed.iter().filter(|case| !mutation.kills.contains(case)).collect::<Vec<_>>();
            for case in &survivors {
                println!("    SURVIVED {case}");
            }
            for case in &unrecorded {
                println!("    UNRECORDED {case}");
            }
            survivors.len() + unrecorded.len()
        }
        Err(error) => {
            println!("  {}: {error:#}", mutation.name);
            1
        }
    }
}

fn write_page(mutations: &[Mutation], last_run: &LastRun) -> anyhow::Result<()> {
    let page = render(&read_all(&cases_dir())?, mutations, last_run);
    Ok(std::fs::write(workspace().join("docs/conformance.md"), page)?)
}

/// Returns the record of a run of all mutations that ended now: the current commit and date.
fn describe_run() -> anyhow::Result<LastRun> {
    let git = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new("git").args(arguments).current_dir(workspace()).output().context("cannot run git")?;
        anyhow::ensure!(output.status.success(), "git failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    Ok(LastRun {
        commit: git(&["rev-parse", "--short", "HEAD"])?,
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        partial: Vec::new(),
        changed: Vec::new(),
    })
}
