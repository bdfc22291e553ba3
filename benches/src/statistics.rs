//! Statistics over several rounds.

use std::time::Duration;

use crate::load::LoadResult;

/// Result of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    /// Completed request patterns per second.
    pub(crate) per_second: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99_us: f64,
    /// Processor time of the server in milliseconds per 1,000 completed request patterns.
    pub(crate) processor_ms: f64,
}

impl Measurement {
    /// Computes the result from a load and the processor time that the server used for it.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn new(load: &LoadResult, processor: Duration) -> Self {
        Self {
            per_second: load.per_second(),
            p50_us: load.quantile(0.5),
            p99_us: load.quantile(0.99),
            processor_ms: processor.as_secs_f64() * 1e6 / load.latencies.len().max(1) as f64,
        }
    }
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// The greatest value of the lowest quarter, or the minimum of less than 8 values.
    pub(crate) lower_quartile: f64,
    /// Mean of the two middle values for an even count.
    pub(crate) median: f64,
    /// The smallest value of the highest quarter, or the maximum of less than 8 values.
    pub(crate) upper_quartile: f64,
}

impl Spread {
    /// Computes the spread of values. All zeros if there are none.
    #[must_use]
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted = values.into_iter().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let (last, low, high) = (sorted.len().saturating_sub(1), sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        let quarter = (sorted.len() / 4).saturating_sub(1).min(last);
        Self {
            lower_quartile: at(quarter),
            median: f64::midpoint(at(low), at(high)),
            upper_quartile: at(last - quarter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_count_is_the_mean_of_the_middle_values() {
        for (values, median) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 2.0], 2.5), (vec![7.0], 7.0)] {
            assert!((Spread::of(values).median - median).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn quartiles_are_the_inner_ends_of_the_lowest_and_the_highest_quarter() {
        for (count, lower, upper) in [(1, 1.0, 1.0), (5, 1.0, 5.0), (8, 2.0, 7.0), (20, 5.0, 16.0)] {
            let spread = Spread::of((1..=count).map(f64::from));
            assert!((spread.lower_quartile - lower).abs() < f64::EPSILON, "{count}");
            assert!((spread.upper_quartile - upper).abs() < f64::EPSILON, "{count}");
        }
    }
}
