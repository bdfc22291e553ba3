//! ECS's identity document: its bytes, also with an audience, and the names of its forms.
//! Source: Alibaba Cloud help, "Instance identity"; the order of its sample.

use crate::dialect::Dialect;
use crate::identity::{IdKind, uuid};
use crate::tree::DocumentForm;
use crate::workload::{Link, Workload};

/// The longest audience, in bytes; Alibaba Cloud publishes no limit.
pub(super) const MAX_AUDIENCE_BYTES: usize = 1024;

/// The name of a form below `dynamic/instance-identity/`, if ECS has it.
pub(super) fn name(item: DocumentForm) -> Option<&'static str> {
    match item {
        DocumentForm::Document => Some("document"),
        DocumentForm::Pkcs7 => Some("pkcs7"),
        DocumentForm::Signature | DocumentForm::Rsa2048 => None,
    }
}

/// The document of a pod; `None` if the pod is not answered as an ECS instance.
///
/// With an audience, which only the signed form has, it is the same text with one member more.
pub(super) fn document(workload: &Workload, link: &Link, audience: Option<&str>) -> Option<String> {
    let (part, instance) = (workload.part(Dialect::Ecs)?, &workload.instance);
    let text = |value: Option<String>| serde_json::Value::from(value.unwrap_or_default());
    let members = [
        ("zone-id", text(instance.zone.clone())),
        ("serial-number", text(Some(serial_number(workload)))),
        ("instance-id", text(Some(part.instance_id.clone()))),
        ("region-id", text(instance.region.clone())),
        ("private-ipv4", text(link.ipv4.first().map(ToString::to_string))),
        ("owner-account-id", text(part.account.as_ref().map(ToString::to_string))),
        ("mac", text(Some(link.mac.to_string()))),
        ("image-id", text(Some(part.image_id.clone()))),
        ("instance-type", text(instance.instance_type.clone())),
    ];
    let audience = audience.map(|audience| ("audience", serde_json::Value::from(audience)));
    let members = members.into_iter().chain(audience).map(|(key, value)| format!("\"{key}\":{value}"));
    Some(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

/// The serial number: a UUID made of the pod's UID.
pub(super) fn serial_number(workload: &Workload) -> String {
    uuid(IdKind::Serial, workload.pod.uid.as_str())
}
