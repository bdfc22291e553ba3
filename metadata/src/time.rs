//! The time formats of both clouds.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// Returns UTC in whole seconds, `2026-01-05T08:00:00Z`. Several clients parse only this form.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns an HTTP date, `Mon, 05 Jan 2026 08:00:00 GMT`.
///
/// # Errors
/// If the year is before 0.
pub fn http_date(time: Timestamp) -> Result<String, jiff::Error> {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_no_fraction_of_a_second() {
        let time = "2026-01-05T08:00:00.999Z".parse().unwrap();
        assert_eq!(rfc3339(time), "2026-01-05T08:00:00Z");
        assert_eq!(http_date(time).unwrap(), "Mon, 05 Jan 2026 08:00:00 GMT");
    }
}
