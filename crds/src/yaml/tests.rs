use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    let (mut documents, faults) = documents(text);
    assert_eq!(faults, [], "{text}");
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).value
}

#[test]
fn every_field_has_the_line_it_stands_on_or_that_of_the_field_above() {
    let text =
        "# a comment\nkind: Pod\nmetadata:\n  name: web\n  labels: {a.b/c: x,\n    d: y}\nspec:\n- one\n-\n  two: 2\n";
    let (documents, _) = documents(text);
    let lines = &documents[0].lines;
    for (field, line) in [
        ("", 2),
        ("kind", 2),
        ("metadata", 3),
        ("metadata.name", 4),
        ("metadata.labels.a.b/c", 5),
        ("metadata.labels.d", 6),
        ("metadata.annotations.x", 3),
        ("spec[0]", 8),
        ("spec[1].two", 10),
        ("spec[1].three.four", 10),
        ("spec[7]", 7),
        ("status.x", 2),
    ] {
        assert_eq!(lines.of(field), line, "{field}");
    }
}

#[test]
fn documents_are_separate_and_a_wrong_one_does_not_hide_the_next() {
    let (documents, faults) = documents("---\na: 1\n---\n# nothing\n---\na: [1\n---\nb: 2\n");
    let values = documents.iter().map(|document| document.value.clone()).collect::<Vec<_>>();
    assert_eq!(values, [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(documents[1].lines.of("b"), 8);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!((6..=7).contains(&faults[0].line), "{faults:?}");
}

#[test]
fn words_mean_what_they_mean_to_kubectl() {
    let text = "[yes, 'yes', off, ~, 0777, 0o17, 0x1f, 1_000, -5, 1.5, 1e3, 2026-01-05, 1.2.3, 08, .5, '', !!str 5, 18446744073709551615, \"a\\tb\"]";
    let expected = json!([
        true,
        "yes",
        false,
        null,
        511,
        15,
        31,
        1000,
        -5,
        1.5,
        1000.0,
        "2026-01-05",
        "1.2.3",
        8.0,
        0.5,
        "",
        "5",
        18_446_744_073_709_551_615_u64,
        "a\tb"
    ]);
    assert_eq!(value(text), expected);
    assert_eq!(value("{1: a, true: b}"), json!({"1": "a", "true": "b"}));
    assert_eq!(value("a: |\n  x\n  y\nb: >-\n  x\n  y\n"), json!({"a": "x\ny\n", "b": "x y"}));
    assert_eq!(value("{\n\t\"a\": [1,\n\t\t{\"b\": null}]\n}\n"), json!({"a": [1, {"b": null}]}));
}

#[test]
fn anchors_and_merges_are_copied() {
    assert_eq!(
        value("base: &b {c: 1, d: 2}\nmore:\n  <<: *b\n  d: 3\nlist: [*b]\n"),
        json!({"base": {"c": 1, "d": 2}, "more": {"c": 1, "d": 3}, "list": [{"c": 1, "d": 2}]})
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    let (_, faults) = documents(&bomb);
    assert_eq!(faults[0].message, "the aliases copy too much");
}

#[test]
fn what_is_not_yaml_has_a_line_and_one_line_of_words() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    for (text, line, message) in [
        ("a: 1\nb:\n\t- c\n", 3, "is not YAML"),
        ("a: 1\nb: *nothing\n", 2, "is not YAML"),
        ("a: 1\na: 2\n", 2, "the key a is there twice"),
        ("m:\n  a: 1\n  a: 2\n", 3, "the key m.a is there twice"),
        ("a: !!binary aGk=\n", 1, "the tag !!binary"),
        ("a: .inf\n", 1, "is not a number"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key must be text"),
        ("a: &a [*a]\n", 1, ""),
        ("<<: 3\n", 1, "<< must stand for"),
        (deep.as_str(), 1, "nests more than 64 deep"),
        ("a: 'open\n", 1, "is not YAML"),
    ] {
        let (documents, faults) = documents(text);
        assert_eq!(faults.len(), 1, "{text}: {documents:?}");
        assert!(faults[0].message.contains(message), "{text}: {faults:?}");
        assert!(!faults[0].message.contains('\n'), "{faults:?}");
        assert!(faults[0].line.abs_diff(line) <= 1, "{text}: {faults:?}");
    }
}
