//! The command line of `dev`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use podmeta_metadata::dialect::Dialect;
use podmeta_service::settings::ClusterArgs;

/// Serves pods from YAML files on loopback ports, without a cluster.
///
/// Reads Pods, Deployments, StatefulSets, DaemonSets, Jobs, Namespaces, Nodes, Secrets, ConfigMaps, MetadataProfiles and
/// MetadataPolicies, as `kubectl get -o yaml` prints them too, and serves each pod what it would be served in a cluster.
/// Reads them again when they change.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A file, a folder of .yaml, .yml and .json files, or - for standard input; may be given more than once.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE_OR_DIR_OR_-")]
    pub files: Vec<PathBuf>,

    /// Compiles the files, prints what was found, and ends: with 1 if anything is wrong.
    #[arg(long)]
    pub check: bool,

    /// An address for a pod in place of a loopback port, such as default/web/ec2=127.0.0.1:1338.
    #[arg(long, value_name = "NAMESPACE/POD/DIALECT=ADDRESS")]
    pub listen: Vec<Listen>,

    /// How to print what is served.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Runs a command as this pod: it sees 169.254.169.254, fd00:ec2::254 and 100.100.100.200, and nothing else of the
    /// network. (Linux; elsewhere the command is given the AWS SDKs' environment variables.)
    #[arg(long, value_name = "[NAMESPACE/]POD", requires = "command", conflicts_with_all = ["check", "listen"])]
    pub pod: Option<String>,

    /// The command and its arguments, after --.
    #[arg(last = true, requires = "pod", value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Where health, readiness and metrics are served.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Where session keys and the signing key are kept [default: podmeta in the user's state folder].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// What holds for all pods.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// What is logged: error, warn, info or debug [default: debug, which has a line for each request; warn with --pod].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<tracing::Level>,
}

/// How to print what is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table, with commands to paste.
    #[default]
    Table,
    /// One JSON document, on one line, each time the pods change.
    Json,
}

/// An address that was chosen for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The dialect.
    pub dialect: Dialect,
    /// Where to listen.
    pub address: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like default/web/ec2=127.0.0.1:1338");
        let (place, address) = text.split_once('=').ok_or_else(wrong)?;
        let (pod, dialect) = place.rsplit_once('/').ok_or_else(wrong)?;
        let dialect = Dialect::ALL.into_iter().find(|known| known.as_str() == dialect).ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        Ok(Self { pod: qualified(pod), dialect, address })
    }
}

/// A pod's name with its namespace, `default` if none is given.
#[must_use]
pub(super) fn qualified(pod: &str) -> String {
    if pod.contains('/') { pod.to_owned() } else { format!("default/{pod}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_chosen_for_a_pod_and_a_dialect() {
        let listen = "web/ecs=[::1]:80".parse::<Listen>().unwrap();
        assert_eq!(listen.pod, "default/web");
        assert_eq!(listen.dialect, Dialect::Ecs);
        for bad in ["web=127.0.0.1:1", "web/ec3=127.0.0.1:1", "web/ec2=127.0.0.1", "web/ec2"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
