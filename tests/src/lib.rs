//! Tests of podmeta as a whole. [`conformance`] plays cases against the agent's edge without a socket; [`mutation`]
//! breaks one rule at a time and sees which cases notice.

pub mod conformance;
pub mod mutation;
