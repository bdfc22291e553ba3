//! The difference between the clocks of the operator and a cloud. Clouds reject requests with a wrong time. Their errors do not
//! always name the time: AWS STS returns `SignatureDoesNotMatch`, and Alibaba Cloud `InvalidTimeStamp.Expired`.

use std::fmt;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// The minimum difference that is reported. The clouds reject requests if it is more than 15 minutes.
const MIN_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(4);

/// A large difference of the clocks. It is positive if the operator's clock is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew(SignedDuration);

impl ClockSkew {
    /// Compares a response's `Date` with the operator's time. Returns `None` if the difference is small, or if the header is
    /// absent or invalid.
    #[must_use]
    pub fn measure(date: Option<&str>, now: Timestamp) -> Option<Self> {
        let skew = now.duration_since(DateTimeParser::new().parse_timestamp(date?).ok()?);
        (skew.abs() >= MIN_CLOCK_SKEW).then_some(Self(skew))
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.0.is_positive() { "ahead of" } else { "behind" };
        let minutes = self.0.abs().as_mins();
        write!(f, "the clock of the operator's node is {minutes} minutes {direction} that of the cloud; correct it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_4_minutes_or_more_is_reported() {
        let now: Timestamp = "2026-01-05T08:00:00Z".parse().unwrap();
        let text = |minutes| format!("the clock of the operator's node is {minutes} that of the cloud; correct it");
        for (date, expected) in [
            (Some("Mon, 05 Jan 2026 08:00:00 GMT"), None),
            (Some("Mon, 05 Jan 2026 07:56:01 GMT"), None),
            (Some("Mon, 05 Jan 2026 07:56:00 GMT"), Some(text("4 minutes ahead of"))),
            (Some("Mon, 05 Jan 2026 08:16:30 GMT"), Some(text("16 minutes behind"))),
            (Some("yesterday"), None),
            (None, None),
        ] {
            assert_eq!(ClockSkew::measure(date, now).map(|skew| skew.to_string()), expected, "{date:?}");
        }
    }
}
