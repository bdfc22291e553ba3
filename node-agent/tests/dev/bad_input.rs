//! What is wrong in a file is one line with file, line, object and field, and exit code 1.

use crate::support::{Folder, pod_and_profile};

/// A name, the profile's lines, and what the one line of error must be like.
const CASES: &[(&str, &str, &str)] = &[
    (
        "an unknown field",
        "  metadataOptions: {httpToken: required}\n",
        "bad.yaml:12: MetadataProfile default/web: spec.metadataOptions.httpToken: ",
    ),
    (
        "a hop limit of 65",
        "  metadataOptions:\n    httpPutResponseHopLimit: 65\n",
        "bad.yaml:13: MetadataProfile default/web: spec.metadataOptions.httpPutResponseHopLimit: must be 1 to 64, not 65",
    ),
    (
        "a role with two providers",
        "  roles:\n  - {name: a, dialect: ec2, secret: {name: s}, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/a'}}\n",
        "bad.yaml:13: MetadataProfile default/web: spec.roles[0]",
    ),
    (
        "two roles of one dialect",
        "  roles:\n  - {name: a, dialect: ec2, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/a'}}\n  - {name: b, dialect: ec2, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/b'}}\n",
        "bad.yaml:14: MetadataProfile default/web: spec.roles[1]",
    ),
    (
        "a static tag whose key the dialect forbids",
        "  tags:\n    static:\n    - {key: a/b, value: c}\n",
        "bad.yaml:14: MetadataProfile default/web: spec.tags.static[0].key: ",
    ),
    (
        "a Secret that is missing",
        "  roles:\n  - name: a\n    dialect: ec2\n    secret: {name: nowhere}\n",
        "bad.yaml:15: MetadataProfile default/web: spec.roles[0].secret.name: ",
    ),
    (
        "a CEL expression that does not compile",
        "  metadata:\n  - dialect: ec2\n    path: a\n    expression: pod.metadata.\n",
        "bad.yaml:15: MetadataProfile default/web: spec.metadata[0].expression: does not compile",
    ),
    (
        "a CEL expression that nests comprehensions",
        "  metadata:\n  - dialect: ec2\n    path: a\n    expression: '[1].map(x, [2].map(y, x))'\n",
        "bad.yaml:15: MetadataProfile default/web: spec.metadata[0].expression: nests a comprehension",
    ),
    ("a list where a map should be", "  limits: [1]\n", "bad.yaml:12: MetadataProfile default/web: spec.limits: "),
];

#[test]
fn each_mistake_is_one_line_with_its_place_and_exit_code_1() {
    let folder = Folder::new("bad-input");
    for (name, spec, expected) in CASES {
        folder.write("bad.yaml", &pod_and_profile(spec));
        for arguments in [&["-f", "bad.yaml"][..], &["-f", "bad.yaml", "--check"]] {
            let output = folder.run(arguments);
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{name}: {errors}");
            assert!(errors.starts_with(&format!("error: {expected}")), "{name}: {errors}");
            assert!(output.stdout.is_empty(), "{name}");
        }
    }
}

#[test]
fn what_no_api_server_would_take_is_refused_in_pods_too() {
    let folder = Folder::new("bad-pods");
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
        folder.write("bad.yaml", &text);
        let output = folder.run(&["-f", "bad.yaml", "--check"]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("error: bad.yaml:1: ") && errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_profile_that_selects_no_pod_is_said_and_fails_a_check() {
    let folder = Folder::new("selects-nothing");
    folder.write("pods.yaml", &pod_and_profile("").replace("app: web}}\n  dialects", "app: wep}}\n  dialects"));
    let output = folder.run(&["-f", "pods.yaml", "--check"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("pods.yaml:10: MetadataProfile default/web: spec.podSelector: selects no pod"), "{errors}");
}

#[test]
fn every_mistake_is_reported_not_only_the_first() {
    let folder = Folder::new("all-mistakes");
    folder.write(
        "bad.yaml",
        &pod_and_profile("  metadataOptions: {httpPutResponseHopLimit: 0, maxTokenTtlSeconds: 0}\n"),
    );
    let errors = String::from_utf8(folder.run(&["-f", "bad.yaml"]).stderr).unwrap();
    assert!(errors.contains("httpPutResponseHopLimit") && errors.contains("maxTokenTtlSeconds"), "{errors}");
}

#[test]
fn a_file_that_is_not_yaml_or_not_there_is_named_with_its_line() {
    let folder = Folder::new("not-yaml");
    folder.write("bad.yaml", "a: b\nc: [\n");
    let errors = String::from_utf8(folder.run(&["-f", "bad.yaml"]).stderr).unwrap();
    assert!(errors.starts_with("error: bad.yaml:"), "{errors}");
    let output = folder.run(&["-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot read nowhere.yaml"));
}

#[test]
fn check_prints_findings_and_fails_on_those_that_change_what_a_pod_gets() {
    let folder = Folder::new("check");
    let item = "  metadata:\n  - {dialect: ec2, path: a, expression: pod.metadata.labels.nothing}\n";
    folder.write("finding.yaml", &pod_and_profile(item));
    let output = folder.run(&["-f", "finding.yaml", "--check"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("finding.yaml:13: MetadataProfile default/web: spec.metadata[0]: ItemUnavailable"),
        "{errors}"
    );
    folder.write("good.yaml", &pod_and_profile(""));
    let output = folder.run(&["-f", "good.yaml", "--check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "checked: 1 pod, 0 warnings\n");
}
