//! The operator's command line. The Helm chart sets the flags that differ from their defaults.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use podmeta_service::settings::ClusterArgs;

use crate::credentials::settings::CredentialsArgs;
use crate::model::update::SecretScope;
use crate::tls::serving_certificate::CertificateSource;
use crate::uninstall::UninstallArgs;

/// Compiles MetadataProfiles into the workloads that node agents serve.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "podmeta-operator", version)]
pub enum Cli {
    /// Run the operator. The chart runs it.
    Run(Box<Args>),
    /// Remove podmeta from all nodes, and wait until it is removed.
    Uninstall(UninstallArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
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

    /// ServiceAccount of the operator, for the test of the admission policy for tokens.
    #[arg(long, default_value = "podmeta-operator", value_name = "NAME")]
    pub service_account: String,

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

    /// Namespaces whose Secrets profiles may use, separated by commas, or * for all. Only Secrets with the label
    /// podmeta.dev/usable-by: metadataprofiles are read.
    #[arg(long, default_value = "*", value_name = "NAMESPACES")]
    pub secret_namespaces: SecretNamespaces,

    /// Remove the taint podmeta.dev/not-ready from nodes that are ready. Needs the permission to patch nodes.
    #[arg(long)]
    pub remove_startup_taint: bool,

    /// Settings of the credentials providers.
    #[command(flatten)]
    pub credentials: CredentialsArgs,

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

/// The namespaces whose Secrets profiles may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretNamespaces {
    /// All namespaces.
    All,
    /// These namespaces.
    Listed(BTreeSet<String>),
}

impl SecretNamespaces {
    /// Returns the scope of each watch of Secrets.
    #[must_use]
    pub fn scopes(&self) -> BTreeSet<SecretScope> {
        match self {
            Self::All => BTreeSet::from([SecretScope::Cluster]),
            Self::Listed(names) => names.iter().cloned().map(SecretScope::Namespace).collect(),
        }
    }
}

impl FromStr for SecretNamespaces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::All),
            "" => return Ok(Self::Listed(BTreeSet::new())),
            _ => {}
        }
        let is_label = |name: &str| {
            (1..=63).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let names = text.split(',').map(|name| match is_label(name) {
            true => Ok(name.to_owned()),
            false => Err(format!("{name:?} is not the name of a namespace; use * alone for all namespaces")),
        });
        names.collect::<Result<_, _>>().map(Self::Listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_namespaces_are_all_or_a_list_of_names() {
        let listed = |names: &[&str]| SecretNamespaces::Listed(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!("*".parse(), Ok(SecretNamespaces::All));
        assert_eq!("".parse(), Ok(listed(&[])));
        assert_eq!("shop,attic".parse(), Ok(listed(&["attic", "shop"])));
        for text in ["*,shop", "shop,", "Shop", "shop/keys", &"a".repeat(64)] {
            assert!(text.parse::<SecretNamespaces>().is_err(), "{text}");
        }
        let scope = |name: &str| SecretScope::Namespace(name.to_owned());
        assert_eq!(SecretNamespaces::All.scopes(), [SecretScope::Cluster].into());
        assert_eq!(listed(&["attic", "shop"]).scopes(), [scope("attic"), scope("shop")].into());
    }
}
