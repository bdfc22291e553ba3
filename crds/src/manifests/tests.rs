use podmeta_metadata::credentials::not_usable;

use super::*;

/// Loads texts as the files 0.yaml, 1.yaml and so on. Returns the errors as text.
fn load_texts(texts: &[&str]) -> (LoadedObjects, Vec<String>) {
    let file = |(index, text): (usize, &&str)| ManifestFile { name: format!("{index}.yaml"), text: (*text).to_owned() };
    let files = texts.iter().enumerate().map(file).collect::<Vec<_>>();
    let (objects, errors) = load(&files, "2026-03-01T00:00:00Z".parse().unwrap());
    (objects, errors.iter().map(ToString::to_string).collect())
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  containers: [{name: a, image: 'img:1'}]\n";
const PROFILE: &str =
    "apiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {name: web}\nspec:\n  dialects: [ec2]\n";

#[test]
fn missing_cluster_values_are_generated() {
    let (objects, errors) = load_texts(&[POD, PROFILE]);
    assert_eq!(errors, [""; 0]);
    let pod = &objects.pods[0];
    let metadata = &pod.facts.pod.metadata;
    assert_eq!(metadata.namespace, "default");
    assert_eq!(metadata.uid.as_str(), defaults::uid("Pod", "default", "web"));
    assert_eq!(metadata.creation_timestamp.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(pod.facts.pod.spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(pod.facts.namespace.metadata.labels["kubernetes.io/metadata.name"], "default");
    assert!(pod.facts.node.is_none());
    assert_eq!(objects.profiles[0].object.generation, 1);
    assert_eq!(objects.profiles[0].object.uid, defaults::uid("MetadataProfile", "default", "web"));
    assert!(objects.profiles[0].matches(&pod.facts.pod));
}

#[test]
fn error_has_file_line_object_and_field_on_one_line() {
    let profile = "\n\napiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata:\n  name: web\nspec:\n  dialects: [ec2]\n  metadataOptions:\n    httpPutResponseHopLimit: 65\n    httpTokns: required\n";
    let (objects, errors) = load_texts(&[profile, POD]);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0], "0.yaml:11: MetadataProfile default/web: spec.metadataOptions.httpTokns: unknown field");
    assert_eq!(
        errors[1],
        "0.yaml:10: MetadataProfile default/web: spec.metadataOptions.httpPutResponseHopLimit: must be 1 to 64, not 65"
    );
    assert!(objects.profiles.is_empty());
    assert_eq!(objects.pods.len(), 1);
}

#[test]
fn profile_with_unknown_field_is_left_out() {
    let (objects, errors) = load_texts(&[&format!("{PROFILE}  rolles: []\n"), &PROFILE.replace("web", "other")]);
    assert_eq!(errors, ["0.yaml:6: MetadataProfile default/web: spec.rolles: unknown field"]);
    assert_eq!(objects.profiles.len(), 1);
    let (_, errors) = load_texts(&[&PROFILE.replace("{name: web}", "{name: web, lables: {}}")]);
    assert_eq!(errors, ["0.yaml:3: MetadataProfile default/web: metadata.lables: unknown field"]);
}

#[test]
fn wrong_type_is_reported_at_its_field() {
    for (spec, expected) in [
        ("  priority: high\n", "0.yaml:6: MetadataProfile default/web: spec.priority: invalid type"),
        (
            "  roles: [{name: a, dialect: gcp}]\n",
            "0.yaml:6: MetadataProfile default/web: spec.roles[0].dialect: unknown variant",
        ),
        ("  roles:\n  - dialect: ec2\n", "0.yaml:7: MetadataProfile default/web: spec.roles[0]: missing field `name`"),
        ("  metadataOptions: {httpTokens: null}\n  priority: null\n", ""),
    ] {
        let (objects, errors) = load_texts(&[&format!("{PROFILE}{spec}")]);
        assert_eq!(objects.profiles.is_empty(), !expected.is_empty());
        assert!(errors.join("\n").starts_with(expected), "{errors:?}");
    }
    let (_, errors) = load_texts(&["apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {a: 1}\n"]);
    assert!(errors[0].starts_with("0.yaml:5: Pod default/web: metadata.labels.a: invalid type"), "{errors:?}");
}

#[test]
fn wrong_version_duplicate_and_non_object_are_errors() {
    let (objects, errors) = load_texts(&[
        &PROFILE.replace("v1alpha1", "v1"),
        POD,
        POD,
        "a: 1\n",
        "apiVersion: v1\nkind: Pod\nspec: {}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n",
        "a: [\n",
    ]);
    assert_eq!(objects.pods.len(), 1);
    for (error, expected) in errors.iter().zip([
        "0.yaml:1: MetadataProfile default/web: apiVersion: must be podmeta.dev/v1alpha1, not podmeta.dev/v1",
        "2.yaml:3: Pod default/web: metadata.name: Pod web is already defined at 1.yaml:3",
        "3.yaml:1: is not a Kubernetes object: apiVersion and kind are required",
        "4.yaml:1: Pod default/: metadata.name: is required",
        "6.yaml:",
    ]) {
        assert!(error.starts_with(expected), "{errors:?}");
    }
    assert_eq!(errors.len(), 5);
    assert_eq!(objects.skipped, ["5.yaml:1: skipping Service shop/web: podmeta does not use this kind"]);
}

#[test]
fn list_elements_are_loaded_with_their_lines() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: one\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: two\n    labels: {a: 1}\n";
    let (objects, errors) = load_texts(&[list, "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: three}}]\n"]);
    assert_eq!(objects.pods.len(), 2);
    assert_eq!(objects.pods[0].location.to_string(), "0.yaml:4");
    assert_eq!(objects.locate("Pod", "default", "one", "metadata.name").unwrap().line, 7);
    assert!(errors[0].starts_with("0.yaml:12: Pod default/two: metadata.labels.a: "), "{errors:?}");
}

#[test]
fn workload_is_loaded_as_one_owned_pod() {
    let workload = |version: &str, kind: &str, more: &str| {
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\nspec:\n  {more}\n  selector: {{}}\n  template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      serviceAccountName: web\n      containers: [{{name: a, image: 'img:1'}}]\n"
        )
    };
    for (version, kind, more, name, owner) in [
        ("apps/v1", "Deployment", "replicas: 3", "web", "ReplicaSet"),
        ("apps/v1", "StatefulSet", "serviceName: webs", "web-0", "StatefulSet"),
        ("apps/v1", "DaemonSet", "minReadySeconds: 1", "web", "DaemonSet"),
        ("batch/v1", "Job", "parallelism: 1", "web", "Job"),
    ] {
        let (objects, errors) = load_texts(&[&workload(version, kind, more)]);
        assert_eq!(errors, [""; 0], "{kind}");
        let pod = &objects.pods[0].facts.pod;
        assert_eq!((pod.metadata.name.as_str(), pod.metadata.namespace.as_str()), (name, "shop"), "{kind}");
        assert_eq!(pod.metadata.labels["app"], "web");
        assert_eq!(pod.spec.service_account_name.as_deref(), Some("web"));
        let controller = pod.metadata.controller.as_ref().unwrap();
        assert_eq!((controller.kind.as_str(), controller.name.as_str()), (owner, "web"));
        assert_eq!(controller.uid, defaults::uid(owner, "shop", "web"));
        assert_eq!(pod.spec.subdomain.as_deref(), (kind == "StatefulSet").then_some("webs"));
        assert_eq!(pod.ordinal(), (kind == "StatefulSet").then_some(0));
        assert_eq!(objects.locate("Pod", "shop", name, "metadata.labels.app").unwrap().line, 9);
        assert_eq!(objects.pods[0].location.line, 7);
    }
}

#[test]
fn pod_is_assigned_to_its_node_or_to_the_only_node() {
    let node = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{zone: z}}}}\nspec: {{unschedulable: true}}\n"
        )
    };
    let (objects, _) = load_texts(&[POD, &node("a")]);
    assert_eq!(objects.pods[0].facts.pod.spec.node_name.as_deref(), Some("a"));
    let facts = objects.pods[0].facts.node.as_ref().unwrap();
    assert_eq!(facts.label("zone"), Some("z"));
    assert_eq!(facts.spec.taints[0].key, "node.kubernetes.io/unschedulable");
    assert_eq!(facts.spec.taints[0].time_added.to_string(), "2026-03-01T00:00:00Z");
    let (objects, _) = load_texts(&[POD, &node("a"), &node("b")]);
    assert!(objects.pods[0].facts.node.is_none());
    let named = POD.replace("spec:\n", "spec:\n  nodeName: b\n");
    let (objects, _) = load_texts(&[&named, &node("a"), &node("b")]);
    assert_eq!(objects.pods[0].facts.node.as_ref().unwrap().metadata.name, "b");
    let (objects, _) = load_texts(&[&named, &node("a")]);
    assert!(objects.pods[0].facts.node.is_none());
    assert_eq!(objects.pods[0].facts.pod.spec.node_name.as_deref(), Some("b"));
}

#[test]
fn secret_values_are_loaded_and_not_shown() {
    let (objects, errors) = load_texts(&[
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, labels: {podmeta.dev/usable-by: metadataprofiles}}\ndata: {accessKeyId: aHVudGVyMQ==, z: eA==}\nstringData: {secretAccessKey: hunter2, z: w}\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: boot}\ndata: {a: text}\nbinaryData: {b: AP8=}\n",
    ]);
    assert_eq!(errors, [""; 0]);
    let keys = objects.secret("default", "keys").unwrap();
    assert_eq!(keys.get("accessKeyId"), Some(&b"hunter1"[..]));
    assert_eq!(keys.get("z"), Some(&b"w"[..]));
    assert_eq!(objects.config_map("default", "boot").unwrap()["b"], [0, 255]);
    assert!(!format!("{objects:?}").contains("hunter"));
    for bad in ["data: {key: hunter2}", "stringData: {key: 4711}", "data: {key: [hunter2]}"] {
        let (_, errors) = load_texts(&[&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\n{bad}\n")]);
        assert!(errors[0].starts_with("0.yaml:4: Secret default/keys: "), "{errors:?}");
        assert!(!errors[0].contains("hunter2") && !errors[0].contains("4711"), "{errors:?}");
    }
}

#[test]
fn missing_reference_target_is_reported_at_the_field() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, labels: {podmeta.dev/usable-by: metadataprofiles}}\nstringData: {accessKeyId: a}\n";
    let full = secret.replace("accessKeyId: a", "accessKeyId: a, secretAccessKey: b");
    let role = format!("{PROFILE}  roles:\n  - name: web\n    dialect: ec2\n    secret:\n      name: keys\n");
    let unlabelled = full.replace("metadataprofiles", "others");
    let unusable = not_usable("default", "keys");
    let secret_data = format!("{PROFILE}  userData:\n    secretKeyRef:\n      name: keys\n      key: x\n");
    let data = format!("{PROFILE}  userData:\n    configMapKeyRef:\n      name: boot\n      key: x\n");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: boot}\ndata: {z: w}\n";
    let object = "MetadataProfile default/web: spec";
    for (files, expected) in [
        (vec![role.as_str()], format!("0.yaml:10: {object}.roles[0].secret.name: {unusable}")),
        (vec![&role, &unlabelled], format!("0.yaml:10: {object}.roles[0].secret.name: {unusable}")),
        (vec![&secret_data], format!("0.yaml:8: {object}.userData.secretKeyRef.name: {unusable}")),
        (vec![&secret_data, &unlabelled], format!("0.yaml:8: {object}.userData.secretKeyRef.name: {unusable}")),
        (
            vec![&secret_data, &full],
            format!("0.yaml:9: {object}.userData.secretKeyRef.key: Secret default/keys has no key x"),
        ),
        (
            vec![&role, secret],
            format!("0.yaml:10: {object}.roles[0].secret.name: Secret default/keys has no key secretAccessKey"),
        ),
        (vec![&role, &full], String::new()),
        (
            vec![&data],
            format!("0.yaml:8: {object}.userData.configMapKeyRef.name: ConfigMap default/boot does not exist"),
        ),
        (
            vec![&data, map],
            format!("0.yaml:9: {object}.userData.configMapKeyRef.key: ConfigMap default/boot has no key x"),
        ),
    ] {
        let (objects, errors) = load_texts(&files);
        assert_eq!(errors, [""; 0]);
        let missing = check_references(&objects).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(missing.join("\n"), expected);
    }
}
