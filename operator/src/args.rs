//! The operator's command line. The Helm chart sets all flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use podmeta_service::settings::ClusterArgs;

use crate::tls::serving_certificate::CertificateSource;

/// Compiles MetadataProfiles into the workloads that node agents serve.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "podmeta-operator", version)]
pub struct Args {
    /// Listen address of the node agents' API (HTTPS).
    #[arg(long, default_value = "[::]:8443", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Listen address of health, readiness and metrics.
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Namespace of the operator, its Lease, Secrets and ConfigMaps.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Name of this replica: its pod's name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,

    /// Address at which agents reach this replica while it is the leader: its pod's IP address.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub address: IpAddr,

    /// Service through which agents reach all replicas. The serving certificate is for its DNS name.
    #[arg(long, default_value = "podmeta-operator", value_name = "NAME")]
    pub service: String,

    /// Lease for leader election.
    #[arg(long, default_value = "podmeta-operator", value_name = "NAME")]
    pub lease: String,

    /// ServiceAccount of the node agents.
    #[arg(long, default_value = "podmeta-agent", value_name = "NAME")]
    pub agent_service_account: String,

    /// Secret of the operator's certificate authority and serving certificate. The authority's certificate is published
    /// for agents in a ConfigMap with the same name.
    #[arg(long, default_value = "podmeta-operator-tls", value_name = "NAME")]
    pub tls_secret: String,

    /// Serving certificate (PEM) to use instead of the operator's own. The file may be replaced at any time.
    #[arg(long, requires_all = ["tls_key", "tls_ca"], value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Key of --tls-cert (PEM).
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Certificates of the authorities of --tls-cert (PEM). They are published for agents.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Secret of the key that signs identity documents. Its certificate is published in a ConfigMap with the same name.
    #[arg(long, default_value = "podmeta-identity", value_name = "NAME")]
    pub identity_secret: String,

    /// Settings of the whole cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Log filter, such as info or info,podmeta_operator=debug.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Args {
    /// Returns where the serving certificate comes from.
    #[must_use]
    pub fn certificate_source(&self) -> CertificateSource {
        match (self.tls_cert.clone(), self.tls_key.clone(), self.tls_ca.clone()) {
            (Some(certificate), Some(key), Some(ca)) => CertificateSource::Files { certificate, key, ca },
            (_, _, _) => CertificateSource::OwnAuthority,
        }
    }
}
