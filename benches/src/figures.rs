//! Figures of several rounds: the median is quoted, and the spread beside it says how much it is worth.

use std::time::Duration;

use crate::load::Load;

/// What one round showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Rounds of a client a second.
    pub(crate) per_second: f64,
    /// The median latency in microseconds.
    pub p50: f64,
    /// The 99th percentile of latency in microseconds.
    pub p99: f64,
    /// Milliseconds of the server's processor time for 1,000 rounds of a client.
    pub(crate) processor: f64,
}

impl Round {
    /// The figures of a load during which the server used so much processor time.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn new(load: &Load, processor: Duration) -> Self {
        Self {
            per_second: load.per_second(),
            p50: load.quantile(0.5),
            p99: load.quantile(0.99),
            processor: processor.as_secs_f64() * 1e6 / load.latencies.len().max(1) as f64,
        }
    }
}

/// The least, the median and the greatest of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// The least.
    pub(crate) least: f64,
    /// The one in the middle; of an even number the mean of the two.
    pub(crate) median: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

impl Spread {
    /// Of some figures; zeros if there are none.
    #[must_use]
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted = figures.into_iter().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let (last, low, high) = (sorted.len().saturating_sub(1), sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        Self { least: at(0), median: f64::midpoint(at(low), at(high)), greatest: at(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two() {
        for (figures, median) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 2.0], 2.5), (vec![7.0], 7.0)] {
            assert!((Spread::of(figures).median - median).abs() < f64::EPSILON);
        }
        let spread = Spread::of([5.0, 9.0, 1.0]);
        assert!(spread.least < 1.5 && spread.greatest > 8.5);
    }
}
