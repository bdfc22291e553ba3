//! The dev server as a person runs it: the program, its files, its output and its sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod bad_input;
#[cfg(target_os = "linux")]
mod hostile;
mod serving;
mod support;
#[cfg(target_os = "linux")]
mod whole_address;
