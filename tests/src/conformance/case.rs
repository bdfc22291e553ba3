//! The file format of a case: one rule of a cloud's metadata service and the requests that verify it.
//!
//! In request texts (`send`, `headers`, `raw`), every character is one byte: `\xFF` is the byte 255.
//! `${name}` in request texts and expectations is replaced by a value that an earlier step saved.

use anyhow::{Context as _, ensure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::IpFamily;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::expect::Expect;

/// A case file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConformanceCase {
    /// The rule, as a sentence. The file name is derived from it.
    pub rule: String,
    /// The source of the rule, or `podmeta's choice` if no source defines it.
    pub source: String,
    /// The fixture with the initial objects.
    #[serde(default = "standard")]
    pub objects: String,
    /// Merge patches (RFC 7396) of the fixture, by kind, namespace and name.
    #[serde(default)]
    pub patch: Vec<serde_json::Value>,
    /// The pod that sends the requests, as `namespace/name`.
    #[serde(default = "web")]
    pub pod: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

fn standard() -> String {
    "standard".to_owned()
}

fn web() -> String {
    "default/web".to_owned()
}

/// One step: an action, how to send the request, and the expected response.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Step {
    // The action. Exactly one of these is set.
    /// Requests a token. The request must succeed.
    pub token: Option<TokenStep>,
    /// Sends a request, given by its request line without the version.
    pub send: Option<String>,
    /// Sends the exact bytes of one or more requests.
    pub raw: Option<String>,
    /// Requests a directory and everything that it lists, recursively. Each request must return 200 and at most 65,535
    /// bytes.
    pub crawl: Option<String>,
    /// Creates an invalid token from a valid one.
    pub forge: Option<Forge>,
    /// Moves the clock: `90s`, `6h`, or backwards with a minus sign.
    pub wait: Option<String>,
    /// Patches the objects.
    pub change: Option<Vec<serde_json::Value>>,
    /// Patches the objects in a way that must be rejected. The objects do not change.
    pub refuse: Option<RejectedChange>,
    /// Restarts the agent.
    pub restart: Option<Restart>,
    /// Rotates the session key.
    #[serde(default)]
    pub rotate: bool,

    // How to send the request.
    /// The pod that sends the request. Default: the pod of the case.
    pub pod: Option<String>,
    /// The dialect whose service address is used. Default: the dialect of the case.
    pub dialect: Option<Dialect>,
    /// The address family: `ipv4`, the default, or `ipv6`.
    #[serde(default = "default_family", deserialize_with = "deserialize_family")]
    pub over: IpFamily,
    /// The user ID of the sending process.
    pub user: Option<u32>,
    /// The name of a persistent connection. It is opened on first use.
    pub on: Option<String>,
    /// The name of the token to send in the dialect's token header.
    pub with: Option<String>,
    /// Headers, each as `Name: value`. `Host` defaults to the dialect's IPv4 address.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The number of times to send the request.
    #[serde(default = "once")]
    pub times: u32,

    /// The expected response.
    pub expect: Option<Expect>,
}

fn once() -> u32 {
    1
}

/// A token request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenStep {
    /// The name of the saved token.
    #[serde(rename = "as")]
    pub name: String,
    /// The requested TTL in seconds.
    #[serde(default = "six_hours")]
    pub ttl: u32,
}

fn six_hours() -> u32 {
    21_600
}

/// Creates an invalid token from a valid one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forge {
    /// The name of the valid token.
    pub token: String,
    /// The name of the saved invalid token.
    #[serde(rename = "as")]
    pub name: String,
    /// The kind of forgery.
    pub by: Forgery,
}

/// Changes to a token that are possible without the signing key.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forgery {
    /// Removes the last character.
    Cut,
    /// Flips one bit of the MAC.
    FlipMac,
    /// Moves the expiry one hour later and keeps the MAC.
    LaterExpiry,
    /// Replaces the token by a JWT, the form of tokens of earlier releases.
    Jwt,
    /// Replaces the token by 4096 letters, longer than any token.
    TooLong,
}

/// A change of the objects that must be rejected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectedChange {
    /// The patches.
    pub change: Vec<serde_json::Value>,
    /// A text that the rejection message must contain.
    pub message: String,
}

/// Kind of a restart of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// With the saved keys.
    SameKeys,
    /// With new keys, as after a loss of the key file.
    NewKeys,
}

fn default_family() -> IpFamily {
    IpFamily::Ipv4
}

fn deserialize_family<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpFamily, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "ipv4" => Ok(IpFamily::Ipv4),
        "ipv6" => Ok(IpFamily::Ipv6),
        other => Err(D::Error::unknown_variant(other, &["ipv4", "ipv6"])),
    }
}

/// The action of a step.
#[derive(Clone, Copy, Debug)]
pub enum Action<'s> {
    /// Requests a token.
    Token(&'s TokenStep),
    /// Sends a request.
    Send(&'s str),
    /// Sends bytes.
    Raw(&'s str),
    /// Requests a directory recursively.
    Crawl(&'s str),
    /// Creates an invalid token.
    Forge(&'s Forge),
    /// Moves the clock.
    Wait(&'s str),
    /// Patches the objects.
    Change(&'s [serde_json::Value]),
    /// Patches the objects in a way that must be rejected.
    RejectChange(&'s RejectedChange),
    /// Restarts the agent.
    Restart(Restart),
    /// Rotates the session key.
    Rotate,
}

impl ConformanceCase {
    /// Parses a case.
    ///
    /// # Errors
    /// If the text is not a case or a step does not have exactly one action.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let case: Self = serde_saphyr::from_str(text)?;
        ensure!(!case.steps.is_empty(), "the case has no steps");
        for (at, step) in case.steps.iter().enumerate() {
            step.action().with_context(|| format!("step {}", at + 1))?;
        }
        Ok(case)
    }

    /// Returns the required file name without extension: the words of the rule in lower case, joined by hyphens.
    #[must_use]
    pub fn name(&self) -> String {
        let words = self.rule.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
    }
}

impl Step {
    /// Returns the action of the step.
    ///
    /// # Errors
    /// If the step does not have exactly one action, or `expect` is set without a request or missing for one.
    pub fn action(&self) -> anyhow::Result<Action<'_>> {
        let actions = [
            self.token.as_ref().map(Action::Token),
            self.send.as_deref().map(Action::Send),
            self.raw.as_deref().map(Action::Raw),
            self.crawl.as_deref().map(Action::Crawl),
            self.forge.as_ref().map(Action::Forge),
            self.wait.as_deref().map(Action::Wait),
            self.change.as_deref().map(Action::Change),
            self.refuse.as_ref().map(Action::RejectChange),
            self.restart.map(Action::Restart),
            self.rotate.then_some(Action::Rotate),
        ];
        let mut actions = actions.into_iter().flatten();
        let (Some(action), None) = (actions.next(), actions.next()) else {
            anyhow::bail!("the step must have exactly one action");
        };
        let sends_request = matches!(action, Action::Send(_) | Action::Raw(_));
        ensure!(
            sends_request == self.expect.is_some(),
            "`expect` is required for `send` and `raw`, and not allowed for other actions"
        );
        Ok(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_field_or_step_without_action_is_an_error() {
        let case = |steps: &str| ConformanceCase::read(&format!("rule: A rule\nsource: doc\nsteps:\n{steps}\n"));
        assert!(case("- {send: GET /, expect: {status: 200}}").is_ok());
        assert!(case("- {send: GET /, expect: {status: [200, 400], closed: true}}").is_ok());
        for bad in [
            "- {send: GET /, expect: {state: 200}}",
            "- {send: GET /, expect: {status: 200, bdy: x}}",
            "- {send: GET /}",
            "- {wait: 1s, expect: {status: 200}}",
            "- {send: GET /, wait: 1s, expect: {status: 200}}",
            "- {headers: []}",
            "- {forge: {token: a, as: b, by: magic}}",
        ] {
            assert!(case(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_name_is_derived_from_rule() {
        let case =
            ConformanceCase::read("rule: A GET (HEAD too) gets 404, not 40x\nsource: doc\nsteps: [{wait: 1s}]\n")
                .unwrap();
        assert_eq!(case.name(), "a-get-head-too-gets-404-not-40x");
    }
}
