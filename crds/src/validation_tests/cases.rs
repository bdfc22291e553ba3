//! Specs and their expected results.

mod policy;
mod profile;

pub(super) use self::policy::policies;
pub(super) use self::profile::profiles;

/// A spec and its expected result.
pub(super) struct SpecCase {
    pub(super) name: &'static str,
    pub(super) spec: String,
    pub(super) expected: ExpectedResult,
}

pub(super) enum ExpectedResult {
    Accepted,
    /// Schema and conversion reject the spec, with messages that contain these texts.
    Rejected {
        schema: &'static str,
        conversion: &'static str,
    },
    /// CEL cannot express the rule: only the conversion rejects the spec.
    RejectedByConversion(&'static str),
}

fn accepted(name: &'static str, spec: impl Into<String>) -> SpecCase {
    SpecCase { name, spec: spec.into(), expected: ExpectedResult::Accepted }
}

/// Returns a case that schema and conversion reject with the same message.
fn rejected(name: &'static str, spec: impl Into<String>, message: &'static str) -> SpecCase {
    rejected_with(name, spec, message, message)
}

/// Returns a case that schema and conversion reject with different messages.
fn rejected_with(
    name: &'static str,
    spec: impl Into<String>,
    schema: &'static str,
    conversion: &'static str,
) -> SpecCase {
    SpecCase { name, spec: spec.into(), expected: ExpectedResult::Rejected { schema, conversion } }
}

fn rejected_by_conversion(name: &'static str, spec: impl Into<String>, message: &'static str) -> SpecCase {
    SpecCase { name, spec: spec.into(), expected: ExpectedResult::RejectedByConversion(message) }
}
