//! An error in a file is printed on one line with file, line, object and field. The exit code is 1.

use crate::support::{DevDirectory, pod_and_profile};

/// Case name, lines of the profile's spec, and start of the error line.
const CASES: &[(&str, &str, &str)] = &[
    (
        "unknown field",
        "  metadataOptions: {httpToken: required}\n",
        "bad.yaml:12: MetadataProfile default/web: spec.metadataOptions.httpToken: ",
    ),
    (
        "hop limit 65",
        "  metadataOptions:\n    httpPutResponseHopLimit: 65\n",
        "bad.yaml:13: MetadataProfile default/web: spec.metadataOptions.httpPutResponseHopLimit: must be 1 to 64, not 65",
    ),
    (
        "role with two providers",
        "  roles:\n  - {name: a, dialect: ec2, secret: {name: s}, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/a'}}\n",
        "bad.yaml:13: MetadataProfile default/web: spec.roles[0]",
    ),
    (
        "two roles of one dialect",
        "  roles:\n  - {name: a, dialect: ec2, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/a'}}\n  - {name: b, dialect: ec2, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/b'}}\n",
        "bad.yaml:14: MetadataProfile default/web: spec.roles[1]",
    ),
    (
        "static tag with a key that the dialect does not allow",
        "  tags:\n    static:\n    - {key: a/b, value: c}\n",
        "bad.yaml:14: MetadataProfile default/web: spec.tags.static[0].key: ",
    ),
    (
        "missing Secret",
        "  roles:\n  - name: a\n    dialect: ec2\n    secret: {name: nowhere}\n",
        "bad.yaml:15: MetadataProfile default/web: spec.roles[0].secret.name: ",
    ),
    (
        "CEL expression that does not compile",
        "  metadata:\n  - dialect: ec2\n    path: a\n    expression: pod.metadata.\n",
        "bad.yaml:15: MetadataProfile default/web: spec.metadata[0].expression: does not compile",
    ),
    (
        "CEL expression with nested comprehensions",
        "  metadata:\n  - dialect: ec2\n    path: a\n    expression: '[1].map(x, [2].map(y, x))'\n",
        "bad.yaml:15: MetadataProfile default/web: spec.metadata[0].expression: nests a comprehension",
    ),
    ("list instead of a map", "  limits: [1]\n", "bad.yaml:12: MetadataProfile default/web: spec.limits: "),
];

#[test]
fn error_is_one_line_with_its_location_and_exit_code_1() {
    let directory = DevDirectory::new("bad-input");
    for (name, spec, expected) in CASES {
        directory.write("bad.yaml", &pod_and_profile(spec));
        for arguments in [&["-f", "bad.yaml"][..], &["-f", "bad.yaml", "--check"]] {
            let output = directory.run(arguments);
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{name}: {errors}");
            assert!(errors.starts_with(&format!("error: {expected}")), "{name}: {errors}");
            assert!(output.stdout.is_empty(), "{name}");
        }
    }
}

#[test]
fn object_that_the_api_server_rejects_is_an_error() {
    let directory = DevDirectory::new("bad-pods");
    let pod = |metadata: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}, spec: {{containers: [{{name: a, image: a}}]}}{more}}}"
        )
    };
    for (text, expected) in [
        (pod(r#"name: "a\nready: b""#, ""), "metadata.name: "),
        (pod(r#"name: a, labels: {team: "a\r\nb"}"#, ""), "metadata.labels.team: "),
        (pod("name: a", ", status: {podIPs: [{ip: 999.1.1.1}]}"), "status.podIPs[0].ip: "),
        ("{apiVersion: podmeta.dev/v1alpha1, kind: MetadataProfil, metadata: {name: a}}".to_owned(), "kind: "),
    ] {
        directory.write("bad.yaml", &text);
        let output = directory.run(&["-f", "bad.yaml", "--check"]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("error: bad.yaml:1: ") && errors.contains(expected), "{errors}");
    }
}

#[test]
fn profile_that_selects_no_pod_fails_the_check() {
    let directory = DevDirectory::new("selects-nothing");
    directory.write("pods.yaml", &pod_and_profile("").replace("app: web}}\n  dialects", "app: wep}}\n  dialects"));
    let output = directory.run(&["-f", "pods.yaml", "--check"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("pods.yaml:10: MetadataProfile default/web: spec.podSelector: selects no pod"), "{errors}");
}

#[test]
fn all_errors_are_printed() {
    let directory = DevDirectory::new("all-mistakes");
    directory.write(
        "bad.yaml",
        &pod_and_profile("  metadataOptions: {httpPutResponseHopLimit: 0, maxTokenTtlSeconds: 0}\n"),
    );
    let errors = String::from_utf8(directory.run(&["-f", "bad.yaml"]).stderr).unwrap();
    assert!(errors.contains("httpPutResponseHopLimit") && errors.contains("maxTokenTtlSeconds"), "{errors}");
}

#[test]
fn invalid_yaml_and_missing_file_are_errors_with_the_file_name() {
    let directory = DevDirectory::new("not-yaml");
    directory.write("bad.yaml", "a: b\nc: [\n");
    let errors = String::from_utf8(directory.run(&["-f", "bad.yaml"]).stderr).unwrap();
    assert!(errors.starts_with("error: bad.yaml:"), "{errors}");
    let output = directory.run(&["-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot read nowhere.yaml"));
}

#[test]
fn check_prints_findings_and_fails_on_warnings() {
    let directory = DevDirectory::new("check");
    let item = "  metadata:\n  - {dialect: ec2, path: a, expression: pod.metadata.labels.nothing}\n";
    directory.write("finding.yaml", &pod_and_profile(item));
    let output = directory.run(&["-f", "finding.yaml", "--check"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("finding.yaml:13: MetadataProfile default/web: spec.metadata[0]: ItemUnavailable"),
        "{errors}"
    );
    directory.write("good.yaml", &pod_and_profile(""));
    let output = directory.run(&["-f", "good.yaml", "--check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "checked: 1 pod, 0 warnings\n");
}
