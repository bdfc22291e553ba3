//! JSON in the style of EC2: two spaces, `"Key" : value`, LF between lines and none at the end. Shell scripts cut it by
//! columns, and signatures cover its bytes.

/// An object with these members, in this order; a value that is absent is null.
pub(super) fn object(members: &[(&str, Option<&str>)]) -> String {
    let lines = members.iter().map(|(key, value)| format!("  \"{key}\" : {}", serde_json::Value::from(*value)));
    format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_style_of_ec2() {
        let text = object(&[("Code", Some("a\"b")), ("kernelId", None)]);
        assert_eq!(text, "{\n  \"Code\" : \"a\\\"b\",\n  \"kernelId\" : null\n}");
    }
}
