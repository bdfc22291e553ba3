//! Permissions of the operator, and the admission policies that restrict them.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{PodSpecs, fields, object};
use crate::kit::render_chart;

/// Returns the namespace of each Role that allows a verb on Secrets. The name is empty for a ClusterRole.
fn secret_namespaces(objects: &[Value], verb: &str) -> Vec<String> {
    let allows = |object: &&Value| {
        let contains = |rule: &Value, field: &str, value: &str| {
            rule.get(field).and_then(Value::as_array).is_some_and(|values| values.iter().any(|found| found == value))
        };
        let rules = object.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.into_iter().any(|rule| contains(rule, "resources", "secrets") && contains(rule, "verbs", verb))
    };
    let namespace =
        |object: &Value| object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    objects.iter().filter(allows).map(namespace).collect()
}

#[tokio::test]
async fn operator_may_list_secrets_of_all_or_of_the_configured_namespaces() -> Result<()> {
    for (namespaces, roles, argument) in [
        (json!(["*"]), &[""][..], "--secret-namespaces=*"),
        (json!([]), &[], "--secret-namespaces="),
        (json!(["shop", "attic"]), &["shop", "attic"], "--secret-namespaces=shop,attic"),
    ] {
        let objects = render_chart(&["--set-json", &format!("secrets.namespaces={namespaces}")]).await?;
        for verb in ["list", "watch"] {
            ensure!(secret_namespaces(&objects, verb) == roles, "{namespaces} {verb}");
        }
        ensure!(secret_namespaces(&objects, "get") == ["podmeta-system"], "{namespaces}: only the operator's own");
        let arguments = PodSpecs::of(&objects)?.operator["containers"][0]["args"].as_array().context("no arguments")?;
        ensure!(arguments.iter().any(|found| found == argument), "{namespaces}: {arguments:?}");
    }
    for namespaces in [json!(["*", "shop"]), json!(["Shop"]), json!(["shop", "shop"]), json!("*")] {
        let rendered = render_chart(&["--set-json", &format!("secrets.namespaces={namespaces}")]).await;
        ensure!(rendered.is_err(), "{namespaces} is accepted");
    }
    Ok(())
}

/// Returns true if a Role or ClusterRole of the chart allows the creation of ServiceAccount tokens.
fn may_request_tokens(objects: &[Value]) -> bool {
    let rules = objects.iter().filter_map(|object| object.get("rules")).flat_map(|rules| fields(rules, "/resources"));
    rules.into_iter().any(|resources| *resources == json!(["serviceaccounts/token"]))
}

#[tokio::test]
async fn operator_may_request_tokens_only_with_the_admission_policy() -> Result<()> {
    let objects = render_chart(&["--set-json", r#"credentials.tokenAudiences=["sts.amazonaws.com","other"]"#]).await?;
    ensure!(may_request_tokens(&objects), "the operator may not request tokens");
    let name = "podmeta-operator-tokens";
    let policy = object(&objects, "ValidatingAdmissionPolicy", name)?;
    let validations = policy.pointer("/spec/validations").context("the policy has no validations")?;
    let audiences = r#"object.spec.audiences[0] in ["sts.amazonaws.com","other"]"#;
    let expressions = fields(validations, "/expression");
    ensure!(
        expressions.iter().any(|expression| expression.as_str().is_some_and(|text| text.contains(audiences))),
        "{expressions:?}"
    );
    ensure!(policy.pointer("/spec/failurePolicy") == Some(&json!("Fail")), "{policy}");
    let binding = object(&objects, "ValidatingAdmissionPolicyBinding", name)?;
    ensure!(binding.pointer("/spec/policyName") == Some(&json!(name)), "{binding}");
    ensure!(binding.pointer("/spec/validationActions") == Some(&json!(["Deny"])), "{binding}");

    let objects = render_chart(&["--set-json", "credentials.tokenAudiences=[]"]).await?;
    ensure!(!may_request_tokens(&objects), "the operator may request tokens without an audience");
    ensure!(object(&objects, "ValidatingAdmissionPolicy", name).is_err(), "a policy without audiences is rendered");
    Ok(())
}

#[tokio::test]
async fn operator_may_create_tls_secrets_only() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let name = "podmeta-operator-secrets";
    let spec = &object(&objects, "ValidatingAdmissionPolicy", name)?["spec"];
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}]);
    ensure!(spec["failurePolicy"] == "Fail" && spec["matchConstraints"]["resourceRules"] == rules, "{spec}");
    let expressions = fields(&spec["validations"], "/expression");
    ensure!(expressions == ["has(object.type) && object.type == 'kubernetes.io/tls'"], "{expressions:?}");
    let binding = &object(&objects, "ValidatingAdmissionPolicyBinding", name)?["spec"];
    ensure!(*binding == json!({"policyName": name, "validationActions": ["Deny"]}), "{binding}");
    Ok(())
}
