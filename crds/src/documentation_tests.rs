//! Checks `docs/profile.md`: its examples are valid, and it names every field.

use serde_json::Value;

use crate::crd;
use crate::manifests::{ManifestFile, load};

const PAGE: &str = include_str!("../../docs/profile.md");

#[test]
fn examples_of_the_documentation_are_valid() {
    let blocks = PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let files = blocks
        .enumerate()
        .map(|(index, text)| ManifestFile { name: format!("example {index}"), text: text.to_owned() });
    let files = files.collect::<Vec<_>>();
    let (objects, errors) = load(&files, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(errors, []);
    assert_eq!(objects.profiles.len() + objects.policies.len(), files.len());
}

#[test]
fn documentation_names_every_field() {
    fn walk(schema: &Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let words = PAGE.split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>();
            assert!(words.contains(&name.as_str()), "{name} is not in docs/profile.md");
            walk(property);
            walk(&property["items"]);
        }
    }
    for generated in crd::generate().unwrap() {
        let definition = serde_json::to_value(&generated.definition).unwrap();
        walk(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]);
    }
}
