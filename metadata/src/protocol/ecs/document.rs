//! ECS's identity document: its text, and the names of its forms.
//! Source: Alibaba Cloud help, "Instance identity". The order of members is the order of its sample.

use crate::dialect::Dialect;
use crate::identity::{IdKind, uuid};
use crate::tree::DocumentForm;
use crate::workload::{Link, Workload};

/// Maximum length of an audience, in bytes. Alibaba Cloud publishes no limit.
pub(super) const MAX_AUDIENCE_BYTES: usize = 1024;

/// Returns the name of a form below `dynamic/instance-identity/`, or `None` if ECS does not have the form.
pub(super) fn name(item: DocumentForm) -> Option<&'static str> {
    match item {
        DocumentForm::Document => Some("document"),
        DocumentForm::Pkcs7 => Some("pkcs7"),
        DocumentForm::Signature | DocumentForm::Rsa2048 => None,
    }
}

/// Returns the text of the document, or `None` if the pod has none in this dialect. An audience is an additional last
/// member.
pub(super) fn document(workload: &Workload, link: &Link, audience: Option<&str>) -> Option<String> {
    let (part, instance) = (workload.documented_part(Dialect::Ecs)?, &workload.instance);
    let (pod, signed) = (&workload.pod, &instance.signed);
    let text = |value: Option<String>| serde_json::Value::from(value.unwrap_or_default());
    let members = [
        ("zone-id", text(signed.zone.clone())),
        ("serial-number", text(Some(serial_number(workload)))),
        ("instance-id", text(Some(part.instance_id.clone()))),
        ("region-id", text(signed.region.clone())),
        ("private-ipv4", text(link.ipv4.first().map(ToString::to_string))),
        ("owner-account-id", text(part.signed_account.as_ref().map(ToString::to_string))),
        ("mac", text(Some(link.mac.to_string()))),
        ("image-id", text(Some(part.image_id.clone()))),
        ("instance-type", text(instance.instance_type.clone())),
        // Members of podmeta, after those of ECS.
        ("pod-namespace", text(Some(pod.namespace.clone()))),
        ("pod-name", text(Some(pod.name.clone()))),
        ("pod-uid", text(Some(pod.uid.to_string()))),
        ("service-account-name", text(instance.service_account.clone())),
    ];
    let audience = audience.map(|audience| ("audience", serde_json::Value::from(audience)));
    let members = members.into_iter().chain(audience).map(|(key, value)| format!("\"{key}\":{value}"));
    Some(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

/// Returns the serial number: a UUID made from the pod's UID.
pub(super) fn serial_number(workload: &Workload) -> String {
    uuid(IdKind::Serial, workload.pod.uid.as_str())
}
