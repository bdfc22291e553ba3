//! A case as its file has it: one rule of a cloud's metadata service, and the requests that show it.
//!
//! Texts of requests (`send`, `headers`, `raw`) are bytes: every character is one byte, so `\xFF` is the byte 255.
//! `${name}` in them, and in what is expected, is a value that an earlier step saved.

use anyhow::{Context as _, ensure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::Family;
use serde::Deserialize;

use super::expect::Expect;

/// A case file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Case {
    /// The rule, as a sentence; the file has its name.
    pub rule: String,
    /// Where the rule comes from, in short; `podmeta's choice` where the sources say nothing.
    pub source: String,
    /// The fixture of objects that are there at the start.
    #[serde(default = "standard")]
    pub objects: String,
    /// What is different from the fixture: merge patches (RFC 7396) by kind, namespace and name.
    #[serde(default)]
    pub patch: Vec<serde_json::Value>,
    /// The pod that asks, as `namespace/name`.
    #[serde(default = "web")]
    pub pod: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

fn standard() -> String {
    "standard".to_owned()
}

fn web() -> String {
    "default/web".to_owned()
}

/// One step: an action, how the request travels, and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Step {
    // What is done: exactly one of these.
    /// Gets a token, which must work.
    pub token: Option<TokenStep>,
    /// A request line without its version.
    pub send: Option<String>,
    /// The exact bytes of one or more requests.
    pub raw: Option<String>,
    /// Asks for a directory and for all that it lists, and so on down; each must be there.
    pub crawl: Option<String>,
    /// Makes a bad token of a good one.
    pub forge: Option<Forge>,
    /// Moves the clock: `90s`, `6h`, or back with a minus sign.
    pub wait: Option<String>,
    /// Patches the objects, as when a cluster changes.
    pub change: Option<Vec<serde_json::Value>>,
    /// Patches the objects in a way that must be refused; what was there stays.
    pub refuse: Option<Refused>,
    /// Starts the agent anew.
    pub restart: Option<Restart>,
    /// Replaces the session key.
    #[serde(default)]
    pub rotate: bool,

    // How a request travels.
    /// The pod on whose link it is sent, if not the case's.
    pub pod: Option<String>,
    /// The dialect whose address it is sent to, if not the case's.
    pub dialect: Option<Dialect>,
    /// The kind of address it is sent to.
    #[serde(default)]
    pub over: Over,
    /// The user that owns the sending process.
    pub user: Option<u32>,
    /// The connection it is sent on: one that a former step opened under this name, or a new one that is kept.
    pub on: Option<String>,
    /// The name of a token, which is sent in the dialect's header.
    pub with: Option<String>,
    /// Headers, each as `Name: value`. `Host` is the dialect's address unless it is here.
    #[serde(default)]
    pub headers: Vec<String>,
    /// How often it is sent.
    #[serde(default = "once")]
    pub times: u32,

    /// What must come back.
    pub expect: Option<Expect>,
}

fn once() -> u32 {
    1
}

/// Gets a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenStep {
    /// The name it is saved under.
    #[serde(rename = "as")]
    pub name: String,
    /// The life it is asked for, in seconds.
    #[serde(default = "six_hours")]
    pub ttl: u32,
}

fn six_hours() -> u32 {
    21_600
}

/// Makes a bad token of a good one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forge {
    /// The name of the good one.
    pub token: String,
    /// The name that the bad one is saved under.
    #[serde(rename = "as")]
    pub name: String,
    /// What is done to it.
    pub by: Forgery,
}

/// What can be done to a token by one who has no key.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forgery {
    /// The last character is cut off.
    Cut,
    /// One bit of the signature is flipped.
    FlipSignature,
    /// The claims name another pod, under the old signature.
    OtherPod,
    /// The claims end an hour later, under the old signature.
    LongerLife,
    /// The header says that there is no signature, and there is none.
    AlgNone,
    /// More base64 than any token is long.
    TooLong,
}

/// A change that must be refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The patches.
    pub change: Vec<serde_json::Value>,
    /// What the refusal must say.
    pub says: String,
}

/// How the agent starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// With the keys of its file.
    SameKeys,
    /// Its file is gone, so it makes new ones.
    NewKeys,
}

/// The kind of address that a request is sent to.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<Over> for Family {
    fn from(over: Over) -> Self {
        match over {
            Over::Ipv4 => Self::Ipv4,
            Over::Ipv6 => Self::Ipv6,
        }
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug)]
pub enum Action<'s> {
    /// Gets a token.
    Token(&'s TokenStep),
    /// Sends a request.
    Send(&'s str),
    /// Sends bytes.
    Raw(&'s str),
    /// Walks a tree.
    Crawl(&'s str),
    /// Makes a bad token.
    Forge(&'s Forge),
    /// Moves the clock.
    Wait(&'s str),
    /// Changes the objects.
    Change(&'s [serde_json::Value]),
    /// Changes the objects in a way that must be refused.
    Refuse(&'s Refused),
    /// Starts the agent anew.
    Restart(Restart),
    /// Replaces the session key.
    Rotate,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// If the text is not a case, or a step does nothing, or several things at once.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let case: Self = serde_saphyr::from_str(text)?;
        ensure!(!case.steps.is_empty(), "it has no step");
        for (at, step) in case.steps.iter().enumerate() {
            step.action().with_context(|| format!("step {}", at + 1))?;
        }
        Ok(case)
    }

    /// The name that the case's file must have, without its extension: the rule in lower case, with one hyphen for
    /// whatever stands between words.
    #[must_use]
    pub fn name(&self) -> String {
        let words = self.rule.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
    }
}

impl Step {
    /// What the step does.
    ///
    /// # Errors
    /// If that is nothing, or several things, or nothing is expected of a request.
    pub fn action(&self) -> anyhow::Result<Action<'_>> {
        let actions = [
            self.token.as_ref().map(Action::Token),
            self.send.as_deref().map(Action::Send),
            self.raw.as_deref().map(Action::Raw),
            self.crawl.as_deref().map(Action::Crawl),
            self.forge.as_ref().map(Action::Forge),
            self.wait.as_deref().map(Action::Wait),
            self.change.as_deref().map(Action::Change),
            self.refuse.as_ref().map(Action::Refuse),
            self.restart.map(Action::Restart),
            self.rotate.then_some(Action::Rotate),
        ];
        let mut actions = actions.into_iter().flatten();
        let (Some(action), None) = (actions.next(), actions.next()) else {
            anyhow::bail!("it does nothing, or several things");
        };
        let asks = matches!(action, Action::Send(_) | Action::Raw(_));
        ensure!(asks == self.expect.is_some(), "a request, and nothing else, has an expect");
        Ok(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_or_a_step_without_an_action_is_an_error() {
        let case = |steps: &str| Case::read(&format!("rule: A rule\nsource: doc\nsteps:\n{steps}\n"));
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
    fn a_file_is_named_after_its_rule() {
        let case = Case::read("rule: A GET (HEAD too) gets 404, not 40x\nsource: doc\nsteps: [{wait: 1s}]\n").unwrap();
        assert_eq!(case.name(), "a-get-head-too-gets-404-not-40x");
    }
}
