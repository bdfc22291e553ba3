//! Tests of the dev server's program: its files, output and sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed precondition fails the test"
)]

mod bad_input;
#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod hostile;
mod serving;
mod support;
