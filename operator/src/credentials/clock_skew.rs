//! The difference between the clocks of the operator and a cloud. Clouds reject signed requests with a wrong time. Not every
//! error names the time: AWS STS returns `SignatureDoesNotMatch`.

use std::fmt;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// The advice in errors, events and conditions. It has no number: a condition whose message changed with the number would be
/// written again and again.
pub const WRONG_CLOCK: &str = "the clock of the operator's node is wrong; correct it";

/// The minimum difference that is reported. AWS accepts requests for 5 minutes, and Alibaba Cloud for 15 minutes. The minimum is
/// a minute less, because `Date` has whole seconds and the request takes time. AWS SDKs use the same one. Sources: "Elements of
/// an AWS API request signature", `InvalidTimeStamp.Expired` of Alibaba Cloud, `ClockSkew` of the AWS SDK for Java 2.
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

/// Formats the difference for the log.
impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.0.is_positive() { "ahead of" } else { "behind" };
        write!(f, "{} minutes {direction} the cloud", self.0.abs().as_mins())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_4_minutes_or_more_is_reported() {
        let now: Timestamp = "2026-01-05T08:00:00Z".parse().unwrap();
        for (date, expected) in [
            (Some("Mon, 05 Jan 2026 08:00:00 GMT"), None),
            (Some("Mon, 05 Jan 2026 07:56:01 GMT"), None),
            (Some("Mon, 05 Jan 2026 07:56:00 GMT"), Some("4 minutes ahead of the cloud")),
            (Some("Mon, 05 Jan 2026 08:16:30 GMT"), Some("16 minutes behind the cloud")),
            (Some("yesterday"), None),
            (None, None),
        ] {
            let text = ClockSkew::measure(date, now).map(|skew| skew.to_string());
            assert_eq!(text.as_deref(), expected, "{date:?}");
        }
    }
}
