//! Pods that check their identity: each response must have the instance ID of the pod's own UID. The script calculates the ID
//! itself, so it needs no agent to compare with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use podmeta_cluster::images::CLIENT;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit;

const CHECKING_CLIENT: &str = include_str!("scripts/checking_client.py");

/// The requests of one pod.
pub(super) struct Load {
    /// Number of requests that each process sends. With 0, requests until the file `/stop` exists.
    pub(super) requests: usize,
    /// Pause between two requests of a process, in milliseconds.
    pub(super) pause: u16,
    /// For each process: the number of requests on one connection.
    pub(super) requests_of_connections: &'static [u16],
}

impl Load {
    /// Returns the command that sends the requests and prints [`CheckCounts`].
    pub(super) fn command(&self) -> Vec<String> {
        let numbers = self.requests_of_connections.iter().map(ToString::to_string);
        let arguments = [self.requests.to_string(), self.pause.to_string()].into_iter().chain(numbers);
        ["python3", "-c", CHECKING_CLIENT].map(str::to_owned).into_iter().chain(arguments).collect()
    }
}

/// The sums of a script's processes.
#[derive(Debug, Default, Deserialize)]
pub(super) struct CheckCounts {
    /// Responses with the instance ID of the pod.
    pub(super) right: u64,
    /// Responses with any other body.
    pub(super) wrong: u64,
    /// Connections that failed, requests without a response, and responses with an error status.
    pub(super) failed: u64,
    /// Persistent connections that the server closed before it received a request. The client sent the request again.
    pub(super) reopened: u64,
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Session tokens, each requested with a new connection.
    #[serde(default)]
    pub(super) tokens: u64,
    /// Numbers of failures and wrong responses by message.
    pub(super) failures: BTreeMap<String, u64>,
}

impl CheckCounts {
    /// Parses the output of the script.
    pub(super) fn parse(printed: &str) -> Result<Self> {
        serde_json::from_str(printed).with_context(|| format!("the client printed {printed:?}"))
    }

    /// Returns the sums of several scripts.
    pub(super) fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, counts| {
            sum.right += counts.right;
            sum.wrong += counts.wrong;
            sum.failed += counts.failed;
            sum.reopened += counts.reopened;
            sum.connections += counts.connections;
            sum.tokens += counts.tokens;
            for (message, number) in counts.failures {
                *sum.failures.entry(message).or_default() += number;
            }
            sum
        })
    }
}

/// Returns a profile for the pods of this label `app`. It allows the requests of a load, also over IPv6.
pub(super) fn load_profile(app: &str) -> String {
    let options = json!({"httpProtocolIpv6": "enabled"});
    profile(app, json!({"metadataOptions": options, "limits": {"requestsPerSecond": 2000, "burst": 4000}}))
}

/// Returns a pod that runs a command once, on this node. The script of a [`Load`] runs in it.
pub(super) fn checking_pod(name: &str, app: &str, node: &str, command: &[String]) -> Value {
    let uid = json!({"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}});
    let client = json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": command, "env": [uid],
        "resources": processor_share("50m"),
    });
    kit::client_pod(name, app, json!({"nodeName": node, "restartPolicy": "Never", "containers": [client]}))
}

/// Returns the resources of a container with this share of a processor. Without a share, other programs of the machine leave
/// it no time while they are busy.
pub(super) fn processor_share(request: &str) -> Value {
    json!({"requests": {"cpu": request}})
}

/// Returns the number of an environment variable, or `default` if it is not set.
pub(super) fn number_of_environment(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(number) => number.parse().with_context(|| format!("{variable}={number} is not a number")),
        Err(_) => Ok(default),
    }
}
