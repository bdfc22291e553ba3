//! Resident memory of an idle agent by number of pods, and before and after many tokens.

use std::time::Duration;

use anyhow::Result;

use crate::load::load;
use crate::manifests::{PodLimits, WorkDir};
use crate::process::{ResidentMemory, ServerProcess};
use crate::requests::{RequestKind, token};

const PODS: [usize; 3] = [1, 50, 250];
const TOKENS: u64 = 100_000;

/// Measures and prints the table.
pub(crate) fn all(work_dir: &WorkDir) -> Result<()> {
    println!("\n## Resident memory\n");
    println!("| agent | resident KiB | of it anonymous | per further pod |");
    println!("| --- | --- | --- | --- |");
    let mut one: Option<ResidentMemory> = None;
    for pods in PODS {
        let agent = ServerProcess::agent(&work_dir.pods(pods, PodLimits::Default)?, &["--log", "warn"])?;
        settle();
        let resident = agent.resident()?;
        let first = one.get_or_insert(resident);
        let more = resident.total.saturating_sub(first.total).checked_div(u64::try_from(pods)? - 1);
        let more = more.map_or("-".to_owned(), |more| more.to_string());
        println!("| idle, {pods} pods | {} | {} | {more} |", resident.total, resident.anonymous);
    }
    let agent = ServerProcess::agent(&work_dir.pods(1, PodLimits::High)?, &["--log", "warn"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime.block_on(token(agent.address()?))?;
    let mut issued = 0;
    let report = |when: String, agent: &ServerProcess| {
        settle();
        let resident = agent.resident()?;
        println!("| {when} | {} | {} | - |", resident.total, resident.anonymous);
        anyhow::Ok(())
    };
    report("1 pod, after 1 token".to_owned(), &agent)?;
    while issued < TOKENS {
        issued += load(
            agent.address()?,
            &RequestKind::TokenThenLeaf.pattern(&first),
            16,
            Duration::from_secs(1),
            Duration::ZERO,
        )?
        .latencies
        .len();
    }
    report(format!("1 pod, after {issued} tokens, each on a new connection"), &agent)
}

/// Waits until the agent has closed its connections.
fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}
