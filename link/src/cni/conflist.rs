//! The CNI configuration of podmeta: the first configuration of the node, with podmeta's plugin at its end. Pure.
//!
//! Container runtimes use the first valid file of the directory, in order of names. podmeta has a file of its own that
//! sorts first. It never writes the files of others, because two programs that edit one file would overwrite each other.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::VERSIONS;
use super::request::{OnFailure, Source};
use crate::range::LinkRange;

/// Name of podmeta's file.
pub const FILE_NAME: &str = "00-podmeta.conflist";

/// Type of podmeta's plugin: the name of its program.
pub const PLUGIN_TYPE: &str = "podmeta-cni";

/// A configuration file of the directory.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Path of the file.
    pub path: std::path::PathBuf,
    /// Its content.
    pub content: Vec<u8>,
}

/// Address range of links, and effect of a failed link. Plugin and daemon use them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSettings {
    /// The range of the links' addresses.
    pub link_range: LinkRange,
    /// Effect on a pod whose link cannot be made or is not active within 10 s.
    pub on_failure: OnFailure,
}

/// Result of [`render`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Content of podmeta's file, or `None` if no file that sorts after it is valid and of a supported version.
    pub content: Option<String>,
    /// Name of the first valid file that sorts before podmeta's. The runtime uses that one.
    pub sorts_before: Option<String>,
}

/// Returns podmeta's configuration, made from the first valid file that sorts after it, if podmeta's plugin supports the
/// version of that file. With another version no pod could start. A file that sorts before podmeta's is not used: it can be
/// the one of a meta plugin, such as Multus, that delegates to podmeta's file.
#[must_use]
pub fn render(files: &[ConfigFile], settings: LinkSettings) -> Rendered {
    let name = |file: &ConfigFile| file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut others = files.iter().filter(|file| is_config(&name(file)) && name(file) != FILE_NAME).collect::<Vec<_>>();
    others.sort_by_key(|file| name(file));
    let valid = others.into_iter().filter_map(|file| Some((file, parse(file)?)));
    let (before, after): (Vec<_>, Vec<_>) = valid.partition(|(file, _)| name(file).as_str() < FILE_NAME);
    Rendered {
        content: after
            .into_iter()
            .next()
            .filter(|(_, list)| is_supported(list))
            .map(|(file, list)| with_plugin(file, list, settings)),
        sorts_before: before.first().map(|(file, _)| name(file)),
    }
}

/// Returns a configuration with podmeta's plugin at its end.
fn with_plugin(file: &ConfigFile, mut list: Map<String, Value>, settings: LinkSettings) -> String {
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| plugin.get("type").and_then(Value::as_str) != Some(PLUGIN_TYPE));
        plugins.push(plugin(file, settings));
    }
    format!("{:#}\n", Value::Object(list))
}

/// Returns the entry of podmeta's plugin.
fn plugin(file: &ConfigFile, settings: LinkSettings) -> Value {
    let source = Source { file: file.path.clone(), sha256: sha256(&file.content) };
    let on_failure = match settings.on_failure {
        OnFailure::Fail => "fail",
        OnFailure::Start => "start",
    };
    json!({
        "type": PLUGIN_TYPE,
        "linkRange": settings.link_range.to_string(),
        "onFailure": on_failure,
        "source": source,
    })
}

/// Returns true for the names that container runtimes read.
/// Source: `ConfFiles` in containernetworking/cni libcni/conf.go.
pub(crate) fn is_config(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|extension| name.ends_with(extension))
}

/// Returns true if podmeta's plugin supports the version of a configuration.
fn is_supported(list: &Map<String, Value>) -> bool {
    list.get("cniVersion").and_then(Value::as_str).is_some_and(|version| VERSIONS.contains(&version))
}

/// Parses a file as a list of plugins. A `.conf` file has one plugin. Returns `None` if it is not valid.
fn parse(file: &ConfigFile) -> Option<Map<String, Value>> {
    let Value::Object(config) = serde_json::from_slice(&file.content).ok()? else { return None };
    config.get("name")?.as_str().filter(|name| !name.is_empty())?;
    if file.path.extension()? == "conflist" {
        let plugins = config.get("plugins")?.as_array()?;
        let is_valid = |plugin: &Value| plugin.get("type").is_some_and(Value::is_string);
        return (!plugins.is_empty() && plugins.iter().all(is_valid)).then_some(config);
    }
    config.get("type")?.as_str()?;
    let mut list = Map::new();
    for key in ["cniVersion", "name", "disableCheck"] {
        if let Some(value) = config.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), json!([config]));
    Some(list)
}

/// Returns the SHA-256 of a file's content, in hexadecimal.
pub(super) fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","disableCheck":true,
        "plugins":[{"type":"bridge","bridge":"cni0"},{"type":"portmap"}]}"#;

    fn file(name: &str, content: &str) -> ConfigFile {
        ConfigFile { path: format!("/etc/cni/net.d/{name}").into(), content: content.into() }
    }

    fn render_json(files: &[ConfigFile]) -> Value {
        serde_json::from_str(&render(files, LinkSettings::default()).content.unwrap()).unwrap()
    }

    #[test]
    fn list_keeps_every_field_and_ends_with_our_plugin() {
        let list = render_json(&[file("10-bridge.conflist", LIST)]);
        assert_eq!(
            (&list["name"], &list["cniVersion"], &list["disableCheck"]),
            (&json!("pods"), &json!("1.0.0"), &json!(true))
        );
        assert_eq!(list["plugins"][0], json!({"type": "bridge", "bridge": "cni0"}));
        assert_eq!(list["plugins"][1], json!({"type": "portmap"}));
        let ours = &list["plugins"][2];
        assert_eq!((&ours["type"], &ours["onFailure"]), (&json!("podmeta-cni"), &json!("fail")));
        assert_eq!(ours["source"]["file"], "/etc/cni/net.d/10-bridge.conflist");
        assert_eq!(ours["source"]["sha256"], sha256(LIST.as_bytes()));
    }

    #[test]
    fn single_plugin_becomes_a_list() {
        let conf = r#"{"cniVersion":"0.3.1","name":"pods","type":"ptp","ipam":{}}"#;
        let list = render_json(&[file("10-ptp.conf", conf)]);
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("pods"), &json!("0.3.1")));
        assert_eq!(list["plugins"][0]["type"], "ptp");
        assert_eq!(list["plugins"][1]["type"], "podmeta-cni");
    }

    #[test]
    fn first_valid_file_is_the_source() {
        let files = [
            file("30-later.conflist", r#"{"name":"later","plugins":[{"type":"x"}]}"#),
            file("20-pods.conflist", LIST),
            file("10-invalid.conflist", "{"),
            file("11-empty.conflist", r#"{"name":"empty","plugins":[]}"#),
            file("12-backup.conflist.bak", LIST),
            file(FILE_NAME, r#"{"name":"ours","plugins":[{"type":"podmeta-cni"}]}"#),
        ];
        assert_eq!(render_json(&files)["name"], "pods");
    }

    #[test]
    fn entry_of_ours_in_the_source_is_not_repeated() {
        let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"},{"type":"podmeta-cni"}]}"#;
        assert_eq!(render_json(&[file("10-x.conflist", list)])["plugins"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn first_file_of_an_unsupported_version_gives_no_configuration() {
        for version in ["0.3.0", "", "2.0.0"] {
            let old = file("10-old.conflist", &LIST.replace("1.0.0", version));
            let files = [old, file("20-pods.conflist", LIST)];
            assert_eq!(render(&files, LinkSettings::default()).content, None, "{version}");
        }
    }

    #[test]
    fn file_that_sorts_before_ours_is_reported_and_is_no_source() {
        let multus = file("00-multus.conf", r#"{"name":"m","type":"multus"}"#);
        let rendered = render(std::slice::from_ref(&multus), LinkSettings::default());
        assert_eq!(rendered, Rendered { content: None, sorts_before: Some("00-multus.conf".to_owned()) });
        let files = [multus, file("00-invalid.conf", "{"), file("10-pods.conflist", LIST)];
        assert_eq!(render_json(&files)["name"], "pods");
        assert_eq!(render(&files, LinkSettings::default()).sorts_before.as_deref(), Some("00-multus.conf"));
    }

    #[test]
    fn directory_without_valid_configuration_renders_nothing() {
        for files in [vec![], vec![file("10-x.conflist", "{}")], vec![file(FILE_NAME, LIST)]] {
            assert_eq!(render(&files, LinkSettings::default()), Rendered { content: None, sorts_before: None });
        }
    }
}
