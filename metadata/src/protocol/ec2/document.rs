//! EC2's identity document: its text, and the names of its forms.
//! Source: EC2 user guide, "Instance identity documents".

use crate::dialect::Dialect;
use crate::protocol::ec2::json::object;
use crate::time::rfc3339;
use crate::tree::DocumentForm;
use crate::workload::{Link, Workload};

/// Returns the name of a form below `dynamic/instance-identity/`.
pub(super) fn name(item: DocumentForm) -> &'static str {
    match item {
        DocumentForm::Document => "document",
        DocumentForm::Signature => "signature",
        DocumentForm::Pkcs7 => "pkcs7",
        DocumentForm::Rsa2048 => "rsa2048",
    }
}

/// Returns the text of the document, or `None` if the pod has none in this dialect.
pub(super) fn document(workload: &Workload, link: &Link) -> Option<String> {
    let (part, instance) = (workload.documented_part(Dialect::Ec2)?, &workload.instance);
    let (pod, signed) = (&workload.pod, &instance.signed);
    let account = part.signed_account.as_ref().map(ToString::to_string);
    let private_ip = link.ipv4.first().map(ToString::to_string);
    let text = |value: &Option<String>| value.clone();
    let members = [
        ("accountId", account),
        ("architecture", text(&instance.architecture)),
        ("availabilityZone", text(&signed.zone)),
        ("billingProducts", None),
        ("devpayProductCodes", None),
        ("marketplaceProductCodes", None),
        ("imageId", Some(part.image_id.clone())),
        ("instanceId", Some(part.instance_id.clone())),
        ("instanceType", text(&instance.instance_type)),
        ("kernelId", None),
        ("pendingTime", Some(rfc3339(instance.launched))),
        ("privateIp", private_ip),
        ("ramdiskId", None),
        ("region", text(&signed.region)),
        ("version", Some("2017-09-30".to_owned())),
        // Members of podmeta, after those of EC2.
        ("podNamespace", Some(pod.namespace.clone())),
        ("podName", Some(pod.name.clone())),
        ("podUid", Some(pod.uid.to_string())),
        ("serviceAccountName", text(&instance.service_account)),
    ];
    let members = members.each_ref().map(|(key, value)| (*key, value.as_deref()));
    Some(object(&members))
}
