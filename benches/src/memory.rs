//! Resident memory: of an idle agent with more and more pods, and before and after many tokens.

use std::time::Duration;

use anyhow::Result;

use crate::load::load;
use crate::pods::{Folder, Limits};
use crate::process::{Resident, Server};
use crate::work::{Work, token};

const PODS: [usize; 3] = [1, 50, 250];
const TOKENS: u64 = 100_000;

/// Prints it.
pub(crate) fn all(folder: &Folder) -> Result<()> {
    println!("\n## Resident memory\n");
    println!("| agent | resident KiB | of it not a file's | more per pod |");
    println!("| --- | --- | --- | --- |");
    let mut one: Option<Resident> = None;
    for pods in PODS {
        let agent = Server::agent(&folder.pods(pods, Limits::Default)?, &["--log", "warn"])?;
        settle();
        let resident = agent.resident()?;
        let first = one.get_or_insert(resident);
        let more = resident.all.saturating_sub(first.all).checked_div(u64::try_from(pods)? - 1);
        let more = more.map_or("-".to_owned(), |more| more.to_string());
        println!("| idle, {pods} pods | {} | {} | {more} |", resident.all, resident.own);
    }
    let agent = Server::agent(&folder.pods(1, Limits::High)?, &["--log", "warn"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime.block_on(token(agent.address()?))?;
    let mut made = 0;
    let report = |when: String, agent: &Server| {
        settle();
        let resident = agent.resident()?;
        println!("| {when} | {} | {} | - |", resident.all, resident.own);
        anyhow::Ok(())
    };
    report("1 pod, after 1 token".to_owned(), &agent)?;
    while made < TOKENS {
        made += load(agent.address()?, &Work::TokenThenLeaf.shape(&first), 16, Duration::from_secs(1), Duration::ZERO)?
            .latencies
            .len();
    }
    report(format!("1 pod, after {made} tokens on as many connections"), &agent)
}

/// Gives the agent a moment to end connections.
fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}
