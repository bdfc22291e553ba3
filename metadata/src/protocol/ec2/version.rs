//! The versions of EC2's tree: the first segment of a path, and the first version of each item.
//! Source: listings of `/` and of every version, captured from an instance in September 2026 (radkawar/stackd,
//! `instances_metadata_matrix_handoff.json`). For items that they do not have: the category table of the EC2 user guide.

use crate::tree::SinceVersion;

/// All version prefixes, oldest first. The last one is `latest`.
pub const PREFIXES: [&str; 31] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "2025-10-04",
    "2026-04-15",
    "latest",
];

/// Returns the version of a prefix, or `None` if EC2 does not have it.
#[must_use]
pub fn parse(prefix: &str) -> Option<SinceVersion> {
    PREFIXES.iter().rposition(|known| *known == prefix).and_then(|at| u8::try_from(at).ok()).map(SinceVersion)
}

/// Returns the first version that is not older than `date`. Some categories have a date that is not a prefix; they
/// appear from the next prefix on.
#[allow(clippy::panic, reason = "evaluated at compile time only: a date without a version does not compile")]
const fn from(date: &str) -> SinceVersion {
    let mut at = 0;
    while at < PREFIXES.len() as u8 {
        #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, with bounds checks")]
        if !older(PREFIXES[at as usize], date) {
            return SinceVersion(at);
        }
        at += 1;
    }
    panic!("no version is as new as that date")
}

/// Compares in byte order, which is the order of dates. `1.0` is before all dates and `latest` is after them.
#[allow(clippy::indexing_slicing, reason = "evaluated at compile time, with bounds checks")]
const fn older(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return a[at] < b[at];
        }
        at += 1;
    }
    a.len() < b.len()
}

pub(super) const V1_0: SinceVersion = from("1.0");
pub(super) const V2007_01_19: SinceVersion = from("2007-01-19");
pub(super) const V2007_08_29: SinceVersion = from("2007-08-29");
pub(super) const V2007_12_15: SinceVersion = from("2007-12-15");
pub(super) const V2008_02_01: SinceVersion = from("2008-02-01");
pub(super) const V2008_09_01: SinceVersion = from("2008-09-01");
pub(super) const V2009_04_04: SinceVersion = from("2009-04-04");
pub(super) const V2011_01_01: SinceVersion = from("2011-01-01");
pub(super) const V2011_05_01: SinceVersion = from("2011-05-01");
pub(super) const V2012_01_12: SinceVersion = from("2012-01-12");
pub(super) const V2014_02_25: SinceVersion = from("2014-02-25");
pub(super) const V2014_11_05: SinceVersion = from("2014-11-05");
pub(super) const V2015_10_20: SinceVersion = from("2015-10-20");
pub(super) const V2016_06_30: SinceVersion = from("2016-06-30");
pub(super) const V2016_11_15: SinceVersion = from("2016-11-15");
pub(super) const V2018_03_28: SinceVersion = from("2018-03-28");
pub(super) const V2018_08_17: SinceVersion = from("2018-08-17");
pub(super) const V2019_10_01: SinceVersion = from("2019-10-01");
pub(super) const V2020_10_27: SinceVersion = from("2020-10-27");
pub(super) const V2021_01_03: SinceVersion = from("2021-01-03");
pub(super) const V2021_03_23: SinceVersion = from("2021-03-23");
pub(super) const V2021_07_15: SinceVersion = from("2021-07-15");
pub(super) const V2022_09_24: SinceVersion = from("2022-09-24");
pub(super) const V2025_10_04: SinceVersion = from("2025-10-04");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_that_is_not_a_prefix_is_the_next_prefix() {
        assert_eq!(V2016_11_15, parse("2018-03-28").unwrap());
        assert_eq!(V1_0, SinceVersion(0));
        assert_eq!(parse("2016-11-15"), None);
        assert_eq!(parse("Latest"), None);
    }
}
