use super::*;

fn read(texts: &[&str]) -> (Objects, Vec<String>) {
    let file = |(at, text): (usize, &&str)| File { name: format!("{at}.yaml"), text: (*text).to_owned() };
    let files = texts.iter().enumerate().map(file).collect::<Vec<_>>();
    let (objects, problems) = load(&files, "2026-03-01T00:00:00Z".parse().unwrap());
    (objects, problems.iter().map(ToString::to_string).collect())
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  containers: [{name: a, image: 'img:1'}]\n";
const PROFILE: &str =
    "apiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {name: web}\nspec:\n  dialects: [ec2]\n";

#[test]
fn what_only_a_cluster_knows_is_made_up_and_stable() {
    let (objects, problems) = read(&[POD, PROFILE]);
    assert_eq!(problems, [""; 0]);
    let pod = &objects.pods[0];
    let metadata = &pod.facts.pod.metadata;
    assert_eq!(metadata.namespace, "default");
    assert_eq!(metadata.uid.as_str(), made_up::uid("Pod", "default", "web"));
    assert_eq!(metadata.creation_timestamp.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(pod.facts.pod.spec.service_account_name, "default");
    assert_eq!(pod.facts.namespace.metadata.labels["kubernetes.io/metadata.name"], "default");
    assert!(pod.facts.node.is_none());
    assert_eq!(objects.profiles[0].object.generation, 1);
    assert_eq!(objects.profiles[0].object.uid, made_up::uid("MetadataProfile", "default", "web"));
    assert!(objects.profiles[0].matches(&pod.facts.pod));
}

#[test]
fn a_problem_is_one_line_with_file_line_object_and_field() {
    let profile = "\n\napiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata:\n  name: web\nspec:\n  dialects: [ec2]\n  metadataOptions:\n    httpPutResponseHopLimit: 65\n    httpTokns: required\n";
    let (objects, problems) = read(&[profile, POD]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(
        problems[0],
        "0.yaml:11: MetadataProfile default/web: spec.metadataOptions.httpTokns: is no field of this resource"
    );
    assert_eq!(
        problems[1],
        "0.yaml:10: MetadataProfile default/web: spec.metadataOptions.httpPutResponseHopLimit: must be 1 to 64, not 65"
    );
    assert!(objects.profiles.is_empty());
    assert_eq!(objects.pods.len(), 1);
}

#[test]
fn a_field_that_is_not_known_leaves_the_profile_out() {
    let (objects, problems) = read(&[&format!("{PROFILE}  rolles: []\n"), &PROFILE.replace("web", "other")]);
    assert_eq!(problems, ["0.yaml:6: MetadataProfile default/web: spec.rolles: is no field of this resource"]);
    assert_eq!(objects.profiles.len(), 1);
    let (_, problems) = read(&[&PROFILE.replace("{name: web}", "{name: web, lables: {}}")]);
    assert_eq!(problems, ["0.yaml:3: MetadataProfile default/web: metadata.lables: is no field of this resource"]);
}

#[test]
fn a_wrong_type_is_named_by_its_field() {
    for (spec, expected) in [
        ("  priority: high\n", "0.yaml:6: MetadataProfile default/web: spec.priority: invalid type"),
        (
            "  roles: [{name: a, dialect: gcp}]\n",
            "0.yaml:6: MetadataProfile default/web: spec.roles[0].dialect: unknown variant",
        ),
        ("  roles:\n  - dialect: ec2\n", "0.yaml:7: MetadataProfile default/web: spec.roles[0]: missing field `name`"),
        ("  metadataOptions: {httpTokens: null}\n  priority: null\n", ""),
    ] {
        let (objects, problems) = read(&[&format!("{PROFILE}{spec}")]);
        assert_eq!(objects.profiles.is_empty(), !expected.is_empty());
        assert!(problems.join("\n").starts_with(expected), "{problems:?}");
    }
    let (_, problems) = read(&["apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {a: 1}\n"]);
    assert!(problems[0].starts_with("0.yaml:5: Pod default/web: metadata.labels.a: invalid type"), "{problems:?}");
}

#[test]
fn versions_twins_and_what_is_no_object_are_problems() {
    let (objects, problems) = read(&[
        &PROFILE.replace("v1alpha1", "v1"),
        POD,
        POD,
        "a: 1\n",
        "apiVersion: v1\nkind: Pod\nspec: {}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n",
        "a: [\n",
    ]);
    assert_eq!(objects.pods.len(), 1);
    for (problem, expected) in problems.iter().zip([
        "0.yaml:1: MetadataProfile default/web: apiVersion: must be podmeta.dev/v1alpha1, not podmeta.dev/v1",
        "2.yaml:3: Pod default/web: metadata.name: there is a Pod web already, at 1.yaml:3",
        "3.yaml:1: is no Kubernetes object: it needs apiVersion and kind",
        "4.yaml:1: Pod default/: metadata.name: is missing",
        "6.yaml:",
    ]) {
        assert!(problem.starts_with(expected), "{problems:?}");
    }
    assert_eq!(problems.len(), 5);
    assert_eq!(objects.passed_over, ["5.yaml:1: Service shop/web is passed over"]);
}

#[test]
fn lists_are_taken_apart_and_keep_their_lines() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: one\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: two\n    labels: {a: 1}\n";
    let (objects, problems) = read(&[list, "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: three}}]\n"]);
    assert_eq!(objects.pods.len(), 2);
    assert_eq!(objects.pods[0].location.to_string(), "0.yaml:4");
    assert_eq!(objects.locate("Pod", "default", "one", "metadata.name").unwrap().line, 7);
    assert!(problems[0].starts_with("0.yaml:12: Pod default/two: metadata.labels.a: "), "{problems:?}");
}

#[test]
fn a_workload_becomes_one_pod_that_it_owns() {
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
        let (objects, problems) = read(&[&workload(version, kind, more)]);
        assert_eq!(problems, [""; 0], "{kind}");
        let pod = &objects.pods[0].facts.pod;
        assert_eq!((pod.metadata.name.as_str(), pod.metadata.namespace.as_str()), (name, "shop"), "{kind}");
        assert_eq!(pod.metadata.labels["app"], "web");
        assert_eq!(pod.spec.service_account_name, "web");
        let controller = pod.metadata.controller.as_ref().unwrap();
        assert_eq!((controller.kind.as_str(), controller.name.as_str()), (owner, "web"));
        assert_eq!(controller.uid, made_up::uid(owner, "shop", "web"));
        assert_eq!(pod.spec.subdomain.as_deref(), (kind == "StatefulSet").then_some("webs"));
        assert_eq!(pod.ordinal(), (kind == "StatefulSet").then_some(0));
        assert_eq!(objects.locate("Pod", "shop", name, "metadata.labels.app").unwrap().line, 9);
        assert_eq!(objects.pods[0].location.line, 7);
    }
}

#[test]
fn a_pod_is_on_the_node_it_names_or_on_the_only_one() {
    let node = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{zone: z}}}}\nspec: {{unschedulable: true}}\n"
        )
    };
    let (objects, _) = read(&[POD, &node("a")]);
    assert_eq!(objects.pods[0].facts.pod.spec.node_name.as_deref(), Some("a"));
    let facts = objects.pods[0].facts.node.as_ref().unwrap();
    assert_eq!(facts.label("zone"), Some("z"));
    assert_eq!(facts.spec.taints[0].key, "node.kubernetes.io/unschedulable");
    assert_eq!(facts.spec.taints[0].time_added.to_string(), "2026-03-01T00:00:00Z");
    let (objects, _) = read(&[POD, &node("a"), &node("b")]);
    assert!(objects.pods[0].facts.node.is_none());
    let named = POD.replace("spec:\n", "spec:\n  nodeName: b\n");
    let (objects, _) = read(&[&named, &node("a"), &node("b")]);
    assert_eq!(objects.pods[0].facts.node.as_ref().unwrap().metadata.name, "b");
    let (objects, _) = read(&[&named, &node("a")]);
    assert!(objects.pods[0].facts.node.is_none());
    assert_eq!(objects.pods[0].facts.pod.spec.node_name.as_deref(), Some("b"));
}

#[test]
fn secrets_and_config_maps_are_bytes_and_secrets_do_not_show() {
    let (objects, problems) = read(&[
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\ndata: {accessKeyId: aHVudGVyMQ==, z: eA==}\nstringData: {secretAccessKey: hunter2, z: w}\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: boot}\ndata: {a: text}\nbinaryData: {b: AP8=}\n",
    ]);
    assert_eq!(problems, [""; 0]);
    let keys = objects.secret("default", "keys").unwrap();
    assert_eq!(keys["accessKeyId"].expose(), b"hunter1");
    assert_eq!(keys["z"].expose(), b"w");
    assert_eq!(objects.config_map("default", "boot").unwrap()["b"], [0, 255]);
    assert!(!format!("{objects:?}").contains("hunter"));
    for bad in ["data: {key: hunter2}", "stringData: {key: 4711}", "data: {key: [hunter2]}"] {
        let (_, problems) = read(&[&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\n{bad}\n")]);
        assert!(problems[0].starts_with("0.yaml:4: Secret default/keys: "), "{problems:?}");
        assert!(!problems[0].contains("hunter2") && !problems[0].contains("4711"), "{problems:?}");
    }
}

#[test]
fn a_reference_to_nothing_is_a_problem_at_its_field() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {accessKeyId: a}\n";
    let full = secret.replace("accessKeyId: a", "accessKeyId: a, secretAccessKey: b");
    let role = format!("{PROFILE}  roles:\n  - name: web\n    dialect: ec2\n    secret:\n      name: keys\n");
    let data = format!("{PROFILE}  userData:\n    configMapKeyRef:\n      name: boot\n      key: x\n");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: boot}\ndata: {z: w}\n";
    let object = "MetadataProfile default/web: spec";
    for (files, expected) in [
        (vec![role.as_str()], format!("0.yaml:10: {object}.roles[0].secret.name: there is no Secret default/keys")),
        (
            vec![&role, secret],
            format!("0.yaml:10: {object}.roles[0].secret.name: Secret default/keys has no key secretAccessKey"),
        ),
        (vec![&role, &full], String::new()),
        (vec![&data], format!("0.yaml:8: {object}.userData.configMapKeyRef.name: there is no ConfigMap default/boot")),
        (
            vec![&data, map],
            format!("0.yaml:9: {object}.userData.configMapKeyRef.key: ConfigMap default/boot has no such key"),
        ),
    ] {
        let (objects, problems) = read(&files);
        assert_eq!(problems, [""; 0]);
        let missing = check_references(&objects).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(missing.join("\n"), expected);
    }
}
