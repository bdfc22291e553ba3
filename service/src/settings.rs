//! Settings of the whole cluster, as flags. The operator and dev mode have the same flags, so dev mode can return the same
//! responses as a cluster.

use podmeta_metadata::compile::{Settings, UnlistedClaims};
use podmeta_metadata::names::{AccountId, Line};

/// Settings of the whole cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local", value_parser = line, value_name = "DOMAIN")]
    pub cluster_domain: Line,

    /// Region of signed identity documents, and of pods whose profile and node have none.
    #[arg(long, value_parser = line)]
    pub region: Option<Line>,

    /// Account of signed identity documents, and of pods whose role and profile have none.
    #[arg(long, value_parser = account)]
    pub account_id: Option<AccountId>,

    /// Domain of host names that are made from an address. The default is the cloud's own domain.
    #[arg(long, value_parser = line, value_name = "DOMAIN")]
    pub hostname_suffix: Option<Line>,
}

impl ClusterArgs {
    /// Returns the settings for compiling pods.
    #[must_use]
    pub fn settings(&self, unlisted_claims: UnlistedClaims) -> Settings {
        Settings {
            cluster_domain: self.cluster_domain.to_string(),
            region: self.region.as_ref().map(ToString::to_string),
            account: self.account_id.clone(),
            unlisted_claims,
            hostname_suffix: self.hostname_suffix.as_ref().map(ToString::to_string),
        }
    }
}

fn line(text: &str) -> Result<Line, String> {
    Line::try_from(text).map_err(|error| error.to_string())
}

fn account(text: &str) -> Result<AccountId, String> {
    AccountId::try_from(text).map_err(|error| error.to_string())
}
