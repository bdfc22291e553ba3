//! What holds for all pods of a cluster, on the command line: the same for the operator and for dev mode, so that dev can
//! give the answers of any cluster.

use podmeta_metadata::compile::Settings;
use podmeta_metadata::names::{AccountId, Line};

/// What holds for all pods.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// The domain of the cluster's names.
    #[arg(long, default_value = "cluster.local", value_parser = line, value_name = "DOMAIN")]
    pub cluster_domain: Line,

    /// The region of pods whose profile and node name none.
    #[arg(long, value_parser = line)]
    pub region: Option<Line>,

    /// The account of pods whose role and profile name none.
    #[arg(long, value_parser = account)]
    pub account_id: Option<AccountId>,

    /// The domain of host names that are made of an address, in place of the cloud's own.
    #[arg(long, value_parser = line, value_name = "DOMAIN")]
    pub hostname_suffix: Option<Line>,
}

impl ClusterArgs {
    /// The same as the core takes it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            cluster_domain: self.cluster_domain.to_string(),
            region: self.region.as_ref().map(ToString::to_string),
            account: self.account_id.clone(),
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
