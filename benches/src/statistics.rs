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

/// Minimum, median and maximum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    /// Mean of the two middle values for an even count.
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Computes the spread of values. All zeros if there are none.
    #[must_use]
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted = values.into_iter().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let (last, low, high) = (sorted.len().saturating_sub(1), sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        Self { min: at(0), median: f64::midpoint(at(low), at(high)), max: at(last) }
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
        let spread = Spread::of([5.0, 9.0, 1.0]);
        assert!(spread.min < 1.5 && spread.max > 8.5);
    }
}
