//! Prints the endpoints of the dev server: a table with example commands, or JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use podmeta_metadata::compile::Denied;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::options::HttpTokens;
use podmeta_metadata::request::TOKEN_PATH;
use serde::Serialize;

/// One row of the output: the URL of a pod in one dialect, and what it serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    /// The pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The dialect.
    pub dialect: Dialect,
    /// The URL.
    pub url: String,
    /// The profile. `None` for a pod that is denied or has no profile.
    pub profile: Option<String>,
    /// Token mode. `None` for a pod that is denied.
    pub http_tokens: Option<HttpTokens>,
    /// The role.
    pub role: Option<String>,
    /// The reason if the pod is denied.
    pub denied: Option<String>,
}

/// All endpoints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointReport<'r> {
    /// The endpoints, by pod and dialect.
    pub endpoints: Vec<Endpoint>,
    /// The address for health, readiness and metrics.
    pub admin: SocketAddr,
    /// The certificate that verifies identity documents.
    pub certificate: &'r Path,
}

impl EndpointReport<'_> {
    /// Formats the report as one line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
    }

    /// Formats the report as a table, example commands for the first pod of each dialect, and the `ready:` line.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![["POD", "DIALECT", "URL", "PROFILE", "TOKENS", "ROLE"].map(str::to_owned)];
        rows.extend(self.endpoints.iter().map(row));
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        for dialect in Dialect::ALL {
            if let Some(first) = self.endpoints.iter().find(|row| row.dialect == dialect && row.denied.is_none()) {
                let _ =
                    write!(text, "\n# {}, as {}\n{}", first.pod, dialect.protocol().instance_kind(), commands(first));
            }
        }
        let _ = write!(
            text,
            "\nready: {} served; metrics at http://{}/metrics; certificate of identity documents: {}",
            count(self.endpoints.len(), "endpoint"),
            self.admin,
            self.certificate.display()
        );
        text
    }
}

fn row(endpoint: &Endpoint) -> [String; 6] {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let tokens = match (endpoint.http_tokens, &endpoint.denied) {
        (_, Some(_)) => "denied",
        (Some(HttpTokens::Required), None) => "required",
        (Some(HttpTokens::Optional), None) => "optional",
        (None, None) => "-",
    };
    [
        endpoint.pod.clone(),
        endpoint.dialect.to_string(),
        endpoint.url.clone(),
        or_dash(endpoint.profile.as_deref()),
        tokens.to_owned(),
        or_dash(endpoint.role.as_deref()),
    ]
}

/// Returns commands that request metadata from the endpoint.
fn commands(endpoint: &Endpoint) -> String {
    let (url, protocol) = (&endpoint.url, endpoint.dialect.protocol());
    let read = format!("curl -sf {url}/latest/meta-data/");
    let mut commands = match protocol.token_headers() {
        Some(headers) => {
            // The clouds' documentation writes these names with an upper-case X.
            let display_name = |name: &http::HeaderName| name.as_str().replacen('x', "X", 1);
            let (token, ttl) = (display_name(&headers.token), display_name(&headers.ttl));
            format!("TOKEN=$(curl -sfX PUT {url}{TOKEN_PATH} -H '{ttl}: 21600')\n{read} -H \"{token}: $TOKEN\"\n")
        }
        None => format!("{read}\n"),
    };
    if let Some(example) = protocol.example_command() {
        let _ = writeln!(commands, "{}={url} {example}", protocol.endpoint_variable());
    }
    commands
}

/// Formats a count, such as `1 pod` or `2 pods`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Formats why a pod is denied.
pub(super) fn denied_note(denied: &Denied) -> String {
    format!("{} is denied on every path: {}", denied.pod, denied.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> EndpointReport<'static> {
        let endpoint = |pod: &str, dialect, url: &str, denied: Option<&str>| Endpoint {
            pod: pod.to_owned(),
            dialect,
            url: url.to_owned(),
            profile: denied.is_none().then(|| "web".to_owned()),
            http_tokens: denied.is_none().then_some(HttpTokens::Required),
            role: None,
            denied: denied.map(str::to_owned),
        };
        EndpointReport {
            endpoints: vec![
                endpoint("default/other", Dialect::Ec2, "http://127.0.0.1:20002", Some("no profile")),
                endpoint("default/web", Dialect::Ec2, "http://127.0.0.1:20001", None),
                endpoint("default/web", Dialect::Ecs, "http://127.0.0.1:20003", None),
            ],
            admin: "127.0.0.1:1".parse().unwrap(),
            certificate: Path::new("/c.pem"),
        }
    }

    #[test]
    fn table_has_commands_for_served_pods_and_ends_with_the_ready_line() {
        let table = report().table();
        let lines = table.lines().collect::<Vec<_>>();
        assert_eq!(lines[0], "POD            DIALECT  URL                     PROFILE  TOKENS    ROLE");
        assert_eq!(lines[1], "default/other  ec2      http://127.0.0.1:20002  -        denied    -");
        assert!(table.contains(
            "curl -sfX PUT http://127.0.0.1:20001/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600'"
        ));
        assert!(
            table.contains(
                "curl -sf http://127.0.0.1:20003/latest/meta-data/ -H \"X-aliyun-ecs-metadata-token: $TOKEN\""
            )
        );
        assert!(!table.contains("PUT http://127.0.0.1:20002"));
        assert!(lines.last().unwrap().starts_with("ready: 3 endpoints served"));
    }

    #[test]
    fn json_report_is_one_line() {
        let json = report().json();
        assert!(!json.contains('\n'));
        let value = serde_json::from_str::<serde_json::Value>(&json).unwrap();
        assert_eq!(value["endpoints"][1]["httpTokens"], "required");
        assert_eq!(value["endpoints"][0]["denied"], "no profile");
    }
}
