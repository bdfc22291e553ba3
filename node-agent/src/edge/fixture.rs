//! Test data: an edge whose operator is unreachable, and denied pods.

use std::sync::Arc;

use jiff::Timestamp;
use podmeta_metadata::compile::{DenialReason, Denied};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::session::{KeyBytes, Keyring};
use podmeta_metadata::workload::PodRef;

use crate::broker::{Broker, OperatorBroker};
use crate::edge::{Edge, PodView};
use crate::operator_client::{OperatorClient, OperatorEndpoint};

pub(crate) fn edge() -> Arc<Edge> {
    let url = "https://operator".parse().unwrap();
    let endpoint = OperatorEndpoint { url, ca: "/none".into(), token: "/none".into() };
    let broker = Broker::Operator(OperatorBroker::new(OperatorClient::new(endpoint), Default::default()));
    let keys = Keyring::new(KeyBytes::new([1; 32]), Timestamp::UNIX_EPOCH);
    Edge::new(keys, broker, Arc::new(|| Timestamp::UNIX_EPOCH))
}

/// Returns pod `shop/NAME`, whose UID is its name.
pub(crate) fn denied(name: &str, reason: &str) -> (PodUid, PodView) {
    let uid = PodUid::try_from(name).unwrap();
    let pod = PodRef { namespace: "shop".into(), name: name.into(), uid: uid.clone() };
    (uid, PodView::Denied(Denied { pod, reason: DenialReason::new(reason) }))
}
