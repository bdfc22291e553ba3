//! Admission policies against objects that make a node send requests to a service address, or redirect such requests.
//!
//! Requests are dry runs where possible: an object that a policy does not reject must not harm the cluster.

mod existing;
mod pods;
mod requests;
mod services;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::Api;
use serde_json::{Value, json};

use super::chart::object;
use crate::kit::{self, eventually, render_chart};

/// The names of the policies, without the release name.
const POLICIES: [&str; 5] = ["probe-hosts", "pod-addresses", "services", "endpointslices", "endpoints"];

#[tokio::test]
async fn admission_policies_are_bound_and_can_be_switched_off() -> Result<()> {
    let objects = render_chart(&[]).await?;
    for policy in POLICIES {
        let name = format!("podmeta-{policy}");
        let spec = &object(&objects, "ValidatingAdmissionPolicy", &name)?["spec"];
        ensure!(spec["failurePolicy"] == "Fail", "{name}: {spec}");
        let binding = &object(&objects, "ValidatingAdmissionPolicyBinding", &name)?["spec"];
        ensure!(binding["policyName"] == name && binding["validationActions"] == json!(["Deny"]), "{binding}");
        let selector = &binding["matchResources"]["namespaceSelector"]["matchExpressions"];
        let expected = json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]);
        let expected = if policy == "probe-hosts" { expected } else { Value::Null };
        ensure!(*selector == expected, "{name}: {selector}");
    }
    let objects = render_chart(&["--set-json", "admission.probeHostNamespaces=[]"]).await?;
    let binding = &object(&objects, "ValidatingAdmissionPolicyBinding", "podmeta-probe-hosts")?["spec"];
    ensure!(binding["matchResources"].is_null(), "{binding}");
    let objects = render_chart(&["--set", "admission.metadataAddresses=false"]).await?;
    for policy in POLICIES {
        for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
            ensure!(object(&objects, kind, &format!("podmeta-{policy}")).is_err(), "{kind} {policy} is rendered");
        }
    }
    for value in ["metadataAddresses=maybe", "probeHostNamespaces={Shop}", "other=true"] {
        ensure!(render_chart(&["--set", &format!("admission.{value}")]).await.is_err(), "{value} is accepted");
    }
    Ok(())
}

#[tokio::test]
async fn api_server_compiles_every_policy_without_a_warning() -> Result<()> {
    kit::podmeta_test(async |podmeta, _| {
        let policies = Api::<ValidatingAdmissionPolicy>::all(podmeta.cluster.client.clone());
        for policy in POLICIES {
            let name = format!("podmeta-{policy}");
            let expectation = format!("the expressions of {name} are checked");
            let status = eventually(Duration::from_secs(30), &expectation, async || {
                let status = policies.get(&name).await?.status.context("the policy has no status")?;
                ensure!(status.observed_generation.is_some(), "the policy is not checked");
                Ok(status)
            })
            .await?;
            let warnings = status.type_checking.and_then(|checked| checked.expression_warnings).unwrap_or_default();
            ensure!(warnings.is_empty(), "{name}: {warnings:?}");
        }
        Ok(())
    })
    .await
}
