//! Measures the time from the complete request head to the response, as the agent logs it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::RunOptions;
use crate::load::load;
use crate::manifests::{PodLimits, WorkDir};
use crate::process::ServerProcess;
use crate::requests::{RequestKind, token};

/// Measures one and 16 connections and prints the table.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    println!("\n## podmeta's own code, leaf GET\n");
    println!("| connections | requests | p50 µs | p99 µs |");
    println!("| --- | --- | --- | --- |");
    for connections in [1, 16] {
        let file = work_dir.pods(1, PodLimits::High)?;
        let agent = ServerProcess::agent(&file, &["--log", "debug"])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = runtime.block_on(token(agent.address()?))?;
        load(agent.address()?, &RequestKind::Leaf.pattern(&token), connections, options.time, Duration::ZERO)?;
        drop(agent);
        let mut elapsed = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        for line in std::fs::read_to_string(file.with_extension("log"))?.lines() {
            if let Some((_, text)) =
                line.split_once("path=\"meta-data\"").and_then(|(_, line)| line.split_once("duration="))
            {
                elapsed.saturating_record(nanoseconds(text.split(' ').next().unwrap_or_default())?);
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
        let quantile = |quantile| elapsed.value_at_quantile(quantile) as f64 / 1000.0;
        println!("| {connections} | {} | {:.2} | {:.2} |", elapsed.len(), quantile(0.5), quantile(0.99));
    }
    Ok(())
}

/// Parses a duration of the log, such as `1.25µs`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "durations are short and not negative")]
fn nanoseconds(text: &str) -> Result<u64> {
    let at = text.find(|letter: char| letter.is_alphabetic()).with_context(|| format!("{text:?} is not a duration"))?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ns" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => anyhow::bail!("{text:?} has an unknown unit"),
    };
    Ok((number.parse::<f64>()? * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_parsed_with_its_unit() {
        assert_eq!(nanoseconds("850ns").unwrap(), 850);
        assert_eq!(nanoseconds("1.25µs").unwrap(), 1250);
        assert_eq!(nanoseconds("2ms").unwrap(), 2_000_000);
        assert!(nanoseconds("2 parsecs").is_err() && nanoseconds("").is_err());
    }
}
