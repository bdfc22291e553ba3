use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    let (mut documents, errors) = parse(text);
    assert_eq!(errors, [], "{text}");
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).value
}

#[test]
fn field_has_its_own_line_or_the_line_of_its_parent() {
    let text =
        "# a comment\nkind: Pod\nmetadata:\n  name: web\n  labels: {a.b/c: x,\n    d: y}\nspec:\n- one\n-\n  two: 2\n";
    let (documents, _) = parse(text);
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
        assert_eq!(lines.line_of(field), line, "{field}");
    }
}

#[test]
fn invalid_document_does_not_hide_the_next() {
    let (documents, errors) = parse("---\na: 1\n---\n# nothing\n---\na: [1\n---\nb: 2\n");
    let values = documents.iter().map(|document| document.value.clone()).collect::<Vec<_>>();
    assert_eq!(values, [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(documents[1].lines.line_of("b"), 8);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!((6..=7).contains(&errors[0].line), "{errors:?}");
}

#[test]
fn scalars_resolve_as_in_kubectl() {
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
fn aliases_and_merge_keys_copy_values_up_to_a_limit() {
    assert_eq!(
        value("base: &b {c: 1, d: 2}\nmore:\n  <<: *b\n  d: 3\nlist: [*b]\n"),
        json!({"base": {"c": 1, "d": 2}, "more": {"c": 1, "d": 3}, "list": [{"c": 1, "d": 2}]})
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    let (_, errors) = parse(&bomb);
    assert_eq!(errors[0].message, "the aliases of the document are too large");
}

#[test]
fn syntax_error_has_a_line_and_a_one_line_message() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    for (text, line, message) in [
        ("a: 1\nb:\n\t- c\n", 3, "invalid YAML"),
        ("a: 1\nb: *nothing\n", 2, "invalid YAML"),
        ("a: 1\na: 2\n", 2, "duplicate key a"),
        ("m:\n  a: 1\n  a: 2\n", 3, "duplicate key m.a"),
        ("a: !!binary aGk=\n", 1, "the tag !!binary"),
        ("a: .inf\n", 1, "has no JSON representation"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key must be a string"),
        ("a: &a [*a]\n", 1, ""),
        ("<<: 3\n", 1, "<< must be a map"),
        (deep.as_str(), 1, "nested more than 64 levels deep"),
        ("a: 'open\n", 1, "invalid YAML"),
    ] {
        let (documents, errors) = parse(text);
        assert_eq!(errors.len(), 1, "{text}: {documents:?}");
        assert!(errors[0].message.contains(message), "{text}: {errors:?}");
        assert!(!errors[0].message.contains('\n'), "{errors:?}");
        assert!(errors[0].line.abs_diff(line) <= 1, "{text}: {errors:?}");
    }
}
