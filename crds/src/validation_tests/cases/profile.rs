//! Cases of `MetadataProfile`.

mod instance;
mod items;
mod keys_and_tags;
mod options;
mod roles;
mod selection;
mod user_data;
mod users_and_limits;

use super::SpecCase;

pub(in crate::validation_tests) fn profiles() -> Vec<SpecCase> {
    let cases = [
        selection::selection(),
        options::options(),
        instance::instance(),
        items::items(),
        user_data::user_data(),
        keys_and_tags::keys_and_tags(),
        roles::roles(),
        users_and_limits::users_and_limits(),
    ];
    cases.into_iter().flatten().collect()
}

/// Returns a spec with both dialects and more fields.
fn both(fields: &str) -> String {
    format!("dialects: [ec2, ecs]\n{fields}")
}
