//! Compiles changed files, and describes what changed.

use std::collections::BTreeSet;

use anyhow::Result;
use jiff::Timestamp;
use podmeta_metadata::compile::Settings;

use crate::dev::dev_state::DevState;
use crate::dev::input::InputFile;
use crate::dev::{print_errors, print_notes};

/// The result of reading the files again.
pub(super) enum Reload {
    /// The files still cannot be read. The error has been printed before.
    Unchanged,
    /// The files have errors, which have been printed.
    Invalid,
    /// The files are valid.
    Changed(Box<DevState>),
}

/// Compiles files that were read again, and remembers them in `files`. Prints errors once until the next change.
pub(super) fn reload(read: Result<Vec<InputFile>>, files: &mut Vec<InputFile>, settings: &Settings) -> Reload {
    let new = match read {
        Ok(new) => new,
        Err(error) => {
            // Unreadable files are remembered as no files, so that the error is printed once.
            if std::mem::take(files).is_empty() {
                return Reload::Unchanged;
            }
            eprintln!("error: {error:#}");
            return Reload::Invalid;
        }
    };
    *files = new;
    match DevState::compile(files, Timestamp::now(), settings) {
        Ok(state) => {
            print_notes(&state);
            Reload::Changed(Box::new(state))
        }
        Err(errors) => {
            print_errors(&errors);
            Reload::Invalid
        }
    }
}

/// Describes the differences between two states, one line each.
pub(super) fn changes(old: &DevState, new: &DevState) -> Vec<String> {
    let names = old.pods.keys().chain(new.pods.keys()).collect::<BTreeSet<_>>();
    let change = |name: &String| match (old.pods.get(name), new.pods.get(name)) {
        (None, _) => Some(format!("{name} added")),
        (_, None) => Some(format!("{name} removed")),
        (Some(before), Some(after)) if before != after => Some(format!("{name} changed")),
        (Some(_), Some(_)) => None,
    };
    let secrets = (old.secrets != new.secrets).then(|| "Secrets changed".to_owned());
    names.into_iter().filter_map(change).chain(secrets).collect()
}
