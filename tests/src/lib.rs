//! Tests of podmeta as a whole. [`conformance`] plays cases against the agent's edge without a socket; [`mutation`]
//! breaks one rule at a time and sees which cases notice; [`fuzz`] has what may not happen whatever the input.

pub mod conformance;
pub mod fuzz;
pub mod mutation;
