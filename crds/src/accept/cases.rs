//! The tables: a name, a spec, and what is said of it.

mod policy;
mod profile;

pub(super) use self::policy::policies;
pub(super) use self::profile::profiles;

/// One spec and what is said of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) spec: String,
    pub(super) verdict: Verdict,
}

pub(super) enum Verdict {
    Accepted,
    /// Both refuse, with a message that holds this.
    Refused {
        server: &'static str,
        conversion: &'static str,
    },
    /// CEL cannot say so; the operator and `dev` do.
    RefusedWithoutServer(&'static str),
}

fn accepted(name: &'static str, spec: impl Into<String>) -> Case {
    Case { name, spec: spec.into(), verdict: Verdict::Accepted }
}

/// Refused with the same words.
fn refused(name: &'static str, spec: impl Into<String>, message: &'static str) -> Case {
    differently(name, spec, message, message)
}

/// Refused with words that each side has of its own.
fn differently(name: &'static str, spec: impl Into<String>, server: &'static str, conversion: &'static str) -> Case {
    Case { name, spec: spec.into(), verdict: Verdict::Refused { server, conversion } }
}

fn without_server(name: &'static str, spec: impl Into<String>, message: &'static str) -> Case {
    Case { name, spec: spec.into(), verdict: Verdict::RefusedWithoutServer(message) }
}
