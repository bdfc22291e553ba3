//! The documentation is checked against the types: its examples are valid and no field is missing from it.

use serde_json::Value;

use crate::crd;
use crate::objects::{File, load};

const PAGE: &str = include_str!("../../docs/profile.md");

#[test]
fn the_examples_of_the_documentation_are_valid() {
    let blocks = PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let files = blocks.enumerate().map(|(at, text)| File { name: format!("example {at}"), text: text.to_owned() });
    let files = files.collect::<Vec<_>>();
    let (objects, problems) = load(&files, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(problems, []);
    assert_eq!(objects.profiles.len() + objects.policies.len(), files.len());
}

#[test]
fn every_field_is_in_the_documentation() {
    fn walk(schema: &Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let words = PAGE.split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>();
            assert!(words.contains(&name.as_str()), "{name} is not in docs/profile.md");
            walk(property);
            walk(&property["items"]);
        }
    }
    for published in crd::published().unwrap() {
        let definition = serde_json::to_value(&published.definition).unwrap();
        walk(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]);
    }
}
