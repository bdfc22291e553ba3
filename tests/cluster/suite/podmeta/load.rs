//! Pods that check their identity: each response must have the instance ID of the pod's own UID. The script calculates the ID
//! itself, so it needs no agent to compare with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use podmeta_cluster::images::CLIENT;
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit;

const CHECKING_CLIENT: &str = include_str!("scripts/checking_client.py");

/// The requests of one pod. Its processes use the service addresses in turn: EC2 over IPv4 and IPv6, ECS.
pub(super) struct Load {
    /// End of each process.
    pub(super) end: LoadEnd,
    /// Pause between two requests of a process, in milliseconds.
    pub(super) pause: u16,
    /// For each process: the number of requests on one connection.
    pub(super) requests_of_connections: &'static [u16],
    /// Use of session tokens.
    pub(super) tokens: TokenUse,
}

/// End of a process. Each process also ends when the file `/stop` exists.
#[derive(Clone, Copy, Debug)]
pub(super) enum LoadEnd {
    /// After this number of responses with status 200.
    Requests(usize),
    /// After this time in seconds.
    Seconds(u16),
    /// The process ends as soon as the file `/stop` exists.
    Stop,
    /// The process ends when requests have succeeded for `quiet` seconds after the file `/stop` exists, and at most `limit` seconds
    /// after it exists.
    Recovery { quiet: u16, limit: u16 },
}

/// Use of session tokens by a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenUse {
    /// A token for each connection.
    Connection,
    /// One token of each service, until it is rejected.
    Kept,
}

impl Load {
    /// Returns the command that sends the requests and prints [`CheckCounts`].
    pub(super) fn command(&self) -> Vec<String> {
        let end = match self.end {
            LoadEnd::Requests(number) => json!({"requests": number}),
            LoadEnd::Seconds(number) => json!({"seconds": number}),
            LoadEnd::Stop => json!({}),
            LoadEnd::Recovery { quiet, limit } => json!({"recovery": {"quiet": quiet, "limit": limit}}),
        };
        let settings = json!({
            "end": end, "pause": self.pause, "requests_of_connections": self.requests_of_connections,
            "keep_tokens": self.tokens == TokenUse::Kept, "stub_body": RESPONSE_BODY,
        });
        ["python3", "-c", CHECKING_CLIENT].map(str::to_owned).into_iter().chain([settings.to_string()]).collect()
    }
}

/// The results of a script's processes.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct CheckCounts {
    /// Responses with the instance ID of the pod.
    pub(super) right: u64,
    /// Responses with any other body.
    pub(super) wrong: u64,
    /// The part of `wrong` with the body of the IMDS stub: it stands for the node's metadata service.
    #[serde(default)]
    pub(super) stub: u64,
    /// Connections that failed, requests without a response, and responses with an error status.
    pub(super) failed: u64,
    /// Persistent connections that the server closed before it received a request. The client sent the request again.
    pub(super) reopened: u64,
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Session tokens, each requested with a new connection.
    #[serde(default)]
    pub(super) tokens: u64,
    /// Longest time between two responses with the instance ID, of one process, in seconds.
    pub(super) outage: f64,
    /// Time from the file `/stop` to the last failure after it, of one process, in seconds.
    pub(super) recovery: f64,
    /// Processes whose requests still failed at the limit of [`LoadEnd::Recovery`].
    pub(super) unrecovered: u64,
    /// Numbers of failures by kind: `refused`, `timeout`, `closed`, `unreachable`, `other`, or an HTTP status.
    pub(super) kinds: BTreeMap<String, u64>,
    /// Numbers of failures and wrong responses by message.
    pub(super) failures: BTreeMap<String, u64>,
}

impl CheckCounts {
    /// Parses the output of the script.
    pub(super) fn parse(printed: &str) -> Result<Self> {
        serde_json::from_str(printed).with_context(|| format!("the client printed {printed:?}"))
    }

    /// Returns the sums of several scripts, and the maximum of their times.
    pub(super) fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, counts| {
            sum.right += counts.right;
            sum.wrong += counts.wrong;
            sum.stub += counts.stub;
            sum.failed += counts.failed;
            sum.reopened += counts.reopened;
            sum.connections += counts.connections;
            sum.tokens += counts.tokens;
            sum.outage = sum.outage.max(counts.outage);
            sum.recovery = sum.recovery.max(counts.recovery);
            sum.unrecovered += counts.unrecovered;
            for (kind, number) in counts.kinds {
                *sum.kinds.entry(kind).or_default() += number;
            }
            for (message, number) in counts.failures {
                *sum.failures.entry(message).or_default() += number;
            }
            sum
        })
    }
}

/// Returns a profile for the pods of this label `app`. It allows the requests of a load, at all service addresses, also of pods on
/// the host network.
pub(super) fn load_profile(app: &str) -> String {
    let options = json!({"httpProtocolIpv6": "enabled"});
    let limits = json!({"requestsPerSecond": 2000, "burst": 4000});
    let dialects = ["ec2", "ecs"];
    profile(app, json!({"dialects": dialects, "metadataOptions": options, "limits": limits, "hostNetwork": "Pod"}))
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
