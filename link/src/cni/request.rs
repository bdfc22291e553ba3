//! The request of the container runtime: environment variables and configuration. Pure.

use std::path::PathBuf;

use podmeta_metadata::names::PodUid;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::VERSIONS;
use super::error::{CniError, CniErrorCode};
use crate::alias::SandboxId;
use crate::pod_link::primary::PRIMARY_INTERFACE;
use crate::range::LinkRange;

/// A request of the runtime.
#[derive(Debug)]
pub enum CniCommand {
    /// Make the link of a pod.
    Add(Attachment),
    /// Check the link of a pod.
    Check(Attachment),
    /// Nothing to do: the kernel removes the link with the pod's namespace.
    Del,
    /// Nothing to do: links are removed with their namespaces.
    Gc,
    /// Report whether the plugin can serve `Add`.
    Status(PluginConfig),
    /// Report the supported versions.
    Version,
    /// Return the previous result: the attachment is not the primary interface of a pod, or has no pod UID.
    PassThrough(PluginConfig),
}

/// A pod that gets a link.
#[derive(Debug)]
pub struct Attachment {
    /// The pod's UID.
    pub pod: PodUid,
    /// Namespace and name of the pod, for messages.
    pub pod_name: String,
    /// The sandbox of the pod.
    pub sandbox: SandboxId,
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// Name of the pod's primary interface.
    pub interface: String,
    /// The configuration.
    pub config: PluginConfig,
}

/// The configuration of the plugin, as the runtime passes it on standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginConfig {
    cni_version: String,
    /// The range of the links' addresses.
    #[serde(default, deserialize_with = "link_range")]
    pub link_range: LinkRange,
    /// Effect on a pod whose link cannot be made or is not active within 10 s.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The CNI configuration file from which that of podmeta was made.
    pub source: Option<Source>,
    /// The result of the previous plugin, unchanged.
    pub prev_result: Option<Box<RawValue>>,
}

/// Effect on a pod whose link cannot be made or is not active within 10 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The pod does not start. The runtime retries.
    #[default]
    Fail,
    /// The pod starts. Without a link, it reaches no metadata service until the link daemon makes the link. With a link that
    /// is not active yet, its first requests can time out.
    Start,
}

/// The CNI configuration file from which that of podmeta was made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Source {
    /// Path of the file.
    pub file: PathBuf,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

fn link_range<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<LinkRange, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl CniCommand {
    /// Parses a request. `variable` returns an environment variable; `config` is the standard input.
    ///
    /// # Errors
    /// If a variable is missing or not valid, or the configuration is not valid. The error names the variable or the cause.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, config: &str) -> Result<Self, CniError> {
        let required = |name: &str| {
            let missing = || CniError::new(CniErrorCode::InvalidEnvironment, "missing environment variable", name);
            variable(name).filter(|value| !value.is_empty()).ok_or_else(missing)
        };
        match required("CNI_COMMAND")?.as_str() {
            "ADD" => attachment(required, config, Self::Add),
            "CHECK" => attachment(required, config, Self::Check),
            "DEL" => Ok(Self::Del),
            "GC" => Ok(Self::Gc),
            "STATUS" => parse_config(config).map(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => Err(CniError::new(CniErrorCode::InvalidEnvironment, "unknown CNI_COMMAND", other)),
        }
    }
}

fn parse_config(config: &str) -> Result<PluginConfig, CniError> {
    let config = serde_json::from_str::<PluginConfig>(config)
        .map_err(|error| CniError::new(CniErrorCode::Decode, "the configuration of podmeta-cni is not valid", error))?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        let details = format!("{} is not one of {}", config.cni_version, VERSIONS.join(", "));
        return Err(CniError::new(CniErrorCode::IncompatibleVersion, "unsupported cniVersion", details));
    }
    Ok(config)
}

fn attachment(
    required: impl Fn(&str) -> Result<String, CniError>,
    config: &str,
    command: fn(Attachment) -> CniCommand,
) -> Result<CniCommand, CniError> {
    let config = parse_config(config)?;
    if config.prev_result.is_none() {
        let details = "podmeta-cni must follow the plugin that makes the pod's network";
        return Err(CniError::new(CniErrorCode::InvalidConfig, "the configuration has no prevResult", details));
    }
    let interface = required("CNI_IFNAME")?;
    let args = required("CNI_ARGS").unwrap_or_default();
    let arg = |name: &str| args.split(';').find_map(|arg| arg.split_once('=').filter(|(key, _)| *key == name));
    let Some((_, uid)) = arg("K8S_POD_UID").filter(|_| interface == PRIMARY_INTERFACE) else {
        return Ok(CniCommand::PassThrough(config));
    };
    let invalid = |name, error: &dyn ToString| CniError::new(CniErrorCode::InvalidEnvironment, name, error.to_string());
    let name = |key| arg(key).map_or("?", |(_, value)| value);
    Ok(command(Attachment {
        pod: PodUid::try_from(uid).map_err(|error| invalid("K8S_POD_UID of CNI_ARGS is not valid", &error))?,
        pod_name: format!("{}/{}", name("K8S_POD_NAMESPACE"), name("K8S_POD_NAME")),
        sandbox: SandboxId::try_from(required("CNI_CONTAINERID")?.as_str())
            .map_err(|error| invalid("CNI_CONTAINERID is not valid", &error))?,
        netns: required("CNI_NETNS")?.into(),
        interface,
        config,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"pods","type":"podmeta-cni","prevResult":{"ips":[]}}"#;
    const ARGS: &str = "IgnoreUnknown=1;K8S_POD_UID=u-1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop";

    fn parse(overrides: &[(&str, &str)], config: &str) -> Result<CniCommand, CniError> {
        let variable = |name: &str| {
            let defaults = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "s1"),
                ("CNI_NETNS", "/var/run/netns/x"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", ARGS),
            ];
            let find = |(key, value): &(&str, &str)| (*key == name).then(|| (*value).to_owned());
            overrides.iter().find_map(find).or_else(|| defaults.iter().find_map(find))
        };
        CniCommand::parse(variable, config)
    }

    #[test]
    fn add_names_pod_sandbox_and_namespace() {
        let Ok(CniCommand::Add(add)) = parse(&[], CONFIG) else { panic!("not ADD") };
        assert_eq!((add.pod.as_str(), add.sandbox.as_str(), add.pod_name.as_str()), ("u-1", "s1", "shop/web"));
        assert_eq!(add.config.on_failure, OnFailure::Fail);
        assert_eq!(add.config.link_range, LinkRange::default());
    }

    #[test]
    fn attachment_without_pod_uid_or_with_a_second_interface_passes_through() {
        for overrides in [[("CNI_ARGS", "K8S_POD_NAME=web")], [("CNI_IFNAME", "net1")], [("CNI_ARGS", "")]] {
            assert!(matches!(parse(&overrides, CONFIG), Ok(CniCommand::PassThrough(_))), "{overrides:?}");
        }
    }

    #[test]
    fn status_needs_a_configuration_without_result() {
        let status = |config| parse(&[("CNI_COMMAND", "STATUS")], config);
        assert!(matches!(status(r#"{"cniVersion":"1.1.0"}"#), Ok(CniCommand::Status(_))));
        assert!(status("").is_err());
    }

    #[test]
    fn delete_needs_neither_configuration_nor_result() {
        assert!(matches!(parse(&[("CNI_COMMAND", "DEL")], ""), Ok(CniCommand::Del)));
    }

    #[test]
    fn invalid_request_is_an_error_that_names_the_field() {
        let cases = [
            (("CNI_COMMAND", "PUT"), CONFIG, "unknown CNI_COMMAND: PUT"),
            (("CNI_NETNS", ""), CONFIG, "missing environment variable: CNI_NETNS"),
            (("CNI_CONTAINERID", "a/b"), CONFIG, "CNI_CONTAINERID is not valid"),
            (("CNI_ARGS", "K8S_POD_UID=a b"), CONFIG, "K8S_POD_UID of CNI_ARGS is not valid"),
            (("CNI_COMMAND", "ADD"), r#"{"cniVersion":"0.2.0","prevResult":{}}"#, "unsupported cniVersion: 0.2.0"),
            (("CNI_COMMAND", "ADD"), r#"{"cniVersion":"1.0.0"}"#, "the configuration has no prevResult"),
            (
                ("CNI_COMMAND", "ADD"),
                r#"{"cniVersion":"1.0.0","prevResult":{},"linkRange":"10.0.0.0/8"}"#,
                "must have a prefix length of 16 to 24, not 8",
            ),
        ];
        for (variable, config, message) in cases {
            let error = parse(&[variable], config).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
