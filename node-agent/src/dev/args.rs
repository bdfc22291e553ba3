//! The command line of `dev`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use podmeta_metadata::dialect::Dialect;
use podmeta_service::settings::ClusterArgs;

/// Serves pods of YAML files on loopback ports, without a cluster.
///
/// Reads Pods, Deployments, StatefulSets, DaemonSets, Jobs, Namespaces, Nodes, Secrets, ConfigMaps, MetadataProfiles
/// and MetadataPolicies, also as printed by `kubectl get -o yaml`. Each pod gets the responses that it would
/// get in a cluster. Reloads the files when they change.
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    /// File, directory of .yaml, .yml and .json files, or - for standard input. May be repeated.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE_OR_DIR_OR_-")]
    pub files: Vec<PathBuf>,

    /// Compiles the files, prints the findings and exits. The exit code is 1 if there is an error or a warning.
    #[arg(long)]
    pub check: bool,

    /// Address for a pod instead of a loopback port, such as default/web/ec2=127.0.0.1:1338. May be repeated.
    #[arg(long, value_name = "NAMESPACE/POD/DIALECT=ADDRESS")]
    pub listen: Vec<ListenArg>,

    /// Format of the list of endpoints.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Runs a command as this pod. It has no network except 169.254.169.254, fd00:ec2::254 and 100.100.100.200. (Linux
    /// only. Elsewhere the command gets the endpoint variables of the SDKs.)
    #[arg(long, value_name = "[NAMESPACE/]POD", requires = "command", conflicts_with_all = ["check", "listen"])]
    pub pod: Option<String>,

    /// The command and its arguments, after --.
    #[arg(last = true, requires = "pod", value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Address for health, readiness and metrics.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Directory for session keys and the signing key [default: podmeta in the user's state directory].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Settings that apply to all pods.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Log level: error, warn, info or debug [default: debug, which logs each request; warn with --pod].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<tracing::Level>,
}

/// The format of the list of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table with example commands.
    #[default]
    Table,
    /// One line of JSON, each time the pods change.
    Json,
}

/// A `--listen` argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenArg {
    /// The pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The dialect.
    pub dialect: Dialect,
    /// The address to listen on.
    pub address: SocketAddr,
}

impl FromStr for ListenArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} does not have the form default/web/ec2=127.0.0.1:1338");
        let (endpoint, address) = text.split_once('=').ok_or_else(invalid)?;
        let (pod, dialect) = endpoint.rsplit_once('/').ok_or_else(invalid)?;
        let dialect = Dialect::from_name(dialect).ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        Ok(Self { pod: qualified(pod), dialect, address })
    }
}

/// Returns a pod's name with its namespace, which is `default` if none is given.
pub(super) fn qualified(pod: &str) -> String {
    if pod.contains('/') { pod.to_owned() } else { format!("default/{pod}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_argument_is_parsed() {
        let listen = "web/ecs=[::1]:80".parse::<ListenArg>().unwrap();
        assert_eq!(listen.pod, "default/web");
        assert_eq!(listen.dialect, Dialect::Ecs);
        for invalid in ["web=127.0.0.1:1", "web/ec3=127.0.0.1:1", "web/ec2=127.0.0.1", "web/ec2"] {
            assert!(invalid.parse::<ListenArg>().is_err(), "{invalid}");
        }
    }
}
