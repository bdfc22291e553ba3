//! The operator's command line. The chart sets all of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use podmeta_service::settings::ClusterArgs;

use crate::certificates::Source;

/// Compiles MetadataProfiles into what each node's agent serves.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "podmeta-operator", version)]
pub struct Args {
    /// Where agents are served, with TLS.
    #[arg(long, default_value = "[::]:8443", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Where health, readiness and metrics are served.
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// The operator's own namespace, where its Lease, Secrets and ConfigMaps are.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// This replica's name: its pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,

    /// The address that agents reach this replica at while it leads: its pod's.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub address: IpAddr,

    /// The name of the Service that agents reach all replicas by; the serving certificate is made for it.
    #[arg(long, default_value = "podmeta-operator", value_name = "NAME")]
    pub service: String,

    /// The Lease that the leader holds.
    #[arg(long, default_value = "podmeta-operator", value_name = "NAME")]
    pub lease: String,

    /// The ServiceAccount of the node agents.
    #[arg(long, default_value = "podmeta-agent", value_name = "NAME")]
    pub agent_service_account: String,

    /// The Secret that the operator keeps its certificate authority and serving certificate in. The authority's
    /// certificate is published for agents in a ConfigMap of the same name.
    #[arg(long, default_value = "podmeta-operator-tls", value_name = "NAME")]
    pub tls_secret: String,

    /// A serving certificate in PEM that somebody else renews, in place of the operator's own.
    #[arg(long, requires_all = ["tls_key", "tls_ca"], value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The key of that certificate.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The certificates of its authorities, which are published for agents.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// The Secret that the key is kept in that identity documents are signed with; its certificate is published in a
    /// ConfigMap of the same name.
    #[arg(long, default_value = "podmeta-identity", value_name = "NAME")]
    pub identity_secret: String,

    /// What holds for all pods.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// What is logged, such as info, or info,podmeta_operator=debug.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Args {
    /// Where the serving certificate comes from.
    #[must_use]
    pub fn certificates(&self) -> Source {
        match (self.tls_cert.clone(), self.tls_key.clone(), self.tls_ca.clone()) {
            (Some(certificate), Some(key), Some(ca)) => Source::Files { certificate, key, ca },
            (_, _, _) => Source::Own,
        }
    }
}
