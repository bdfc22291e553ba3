//! The pods of an example file, compiled as in the dev server and queried with session tokens.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use jiff::Timestamp;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::{Decision, EdgeChecks, RequestPod, SocketUser, evaluate};
use podmeta_metadata::host::HostRule;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::rejection::{RejectedRequest, Rejection};
use podmeta_metadata::request::{Request, TOKEN_PATH};
use podmeta_metadata::session::{KeyBytes, Keyring, LastToken};
use podmeta_metadata::tree::{Lookup, Tree};
use podmeta_metadata::workload::{Link, Workload};
use podmeta_node_agent::dev::DevState;
use podmeta_node_agent::dev::InputFile;
use podmeta_node_agent::edge::PodView;

/// The pods of one example file.
pub(crate) struct ExamplePods {
    pods: Vec<ExamplePod>,
    /// Findings of the file.
    pub(crate) findings: Vec<String>,
}

/// A served pod with its trees and a token for each dialect.
pub(crate) struct ExamplePod {
    pub(crate) name: String,
    pub(crate) workload: Workload,
    link: Link,
    trees: BTreeMap<Dialect, Tree>,
    keys: Keyring,
    tokens: [Option<String>; 2],
}

fn now() -> Timestamp {
    Timestamp::from_second(1_767_600_000).unwrap()
}

impl ExamplePods {
    /// Reads a file. Panics if the file has problems.
    pub(crate) fn read(name: &str, text: &str) -> Self {
        let texts = [InputFile { name: name.to_owned(), text: text.to_owned() }];
        let dev_state = DevState::compile(&texts, now(), &Settings::default());
        let dev_state = dev_state.unwrap_or_else(|problems| panic!("{name} has problems: {problems:#?}"));
        let pods = dev_state.pods.into_iter().filter_map(|(name, pod)| match pod.view {
            PodView::Served(workload, link) => Some(ExamplePod::new(name, *workload, link)),
            PodView::Denied(_) => None,
        });
        Self { pods: pods.collect(), findings: dev_state.notes }
    }

    /// Returns the same pods without the metadata items of their profiles.
    pub(crate) fn without_items(&self) -> Self {
        let pods = self.pods.iter().map(|pod| {
            let mut workload = pod.workload.clone();
            for part in workload.dialects.values_mut() {
                part.items.clear();
            }
            ExamplePod::new(pod.name.clone(), workload, pod.link.clone())
        });
        Self { pods: pods.collect(), findings: Vec::new() }
    }

    /// Returns the pods that have a dialect.
    pub(crate) fn pods(&self, dialect: Dialect) -> impl Iterator<Item = &ExamplePod> {
        self.pods.iter().filter(move |pod| pod.workload.part(dialect).is_some())
    }
}

impl ExamplePod {
    fn new(name: String, workload: Workload, link: Link) -> Self {
        let tree = |dialect: Dialect| Some((dialect, dialect.protocol().render(&workload, &link)?));
        let trees = Dialect::ALL.into_iter().filter_map(tree).collect();
        let keys = Keyring::new(KeyBytes::default(), now());
        let mut pod = Self { name, workload, link, trees, keys, tokens: [None, None] };
        pod.tokens = Dialect::ALL.map(|dialect| pod.new_token(dialect));
        pod
    }

    pub(crate) fn tree(&self, dialect: Dialect) -> &Tree {
        &self.trees[&dialect]
    }

    /// Returns true if the pod has a valid token.
    pub(crate) fn issues_tokens(&self, dialect: Dialect) -> bool {
        let token = self.token(dialect).unwrap_or_default();
        self.keys.verify(token.as_bytes(), &LastToken::default(), &self.workload.pod.uid, dialect, now()).is_ok()
    }

    fn token(&self, dialect: Dialect) -> Option<&str> {
        let at = Dialect::ALL.iter().position(|known| *known == dialect).unwrap();
        self.tokens[at].as_deref()
    }

    fn new_token(&self, dialect: Dialect) -> Option<String> {
        let header = dialect.protocol().token_headers().unwrap().ttl.clone();
        match self.send(dialect, &Method::PUT, TOKEN_PATH, (header, "21600")) {
            Ok(Decision::IssueToken { token, .. }) => Some(token),
            Ok(Decision::ServeItem { .. } | Decision::ListMethods { .. }) | Err(_) => None,
        }
    }

    /// Sends a GET with a token. Returns `None` on 404.
    pub(crate) fn get(&self, dialect: Dialect, path: &str) -> Option<Lookup<'_>> {
        let token = self.token(dialect).unwrap_or_else(|| panic!("{} gets no token", self.name));
        let header = dialect.protocol().token_headers().unwrap().token.clone();
        match self.send(dialect, &Method::GET, path, (header, token)) {
            Ok(Decision::ServeItem { lookup, .. }) => Some(lookup),
            Err(RejectedRequest { rejection: Rejection::NotFound, .. }) => None,
            other => panic!("GET {path} as {}: {other:?}", self.name),
        }
    }

    fn send(
        &self,
        dialect: Dialect,
        method: &Method,
        path: &str,
        (header, value): (http::HeaderName, &str),
    ) -> Result<Decision<'_>, RejectedRequest> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, HeaderValue::from_static("169.254.169.254"));
        headers.insert(header, HeaderValue::try_from(value).unwrap());
        let uri = Uri::try_from(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let session = LastToken::default();
        let path = CanonicalPath::parse(uri.path());
        let request = Request {
            method,
            uri: &uri,
            path: path.as_ref(),
            version: Version::HTTP_11,
            headers: &headers,
            service: dialect.service_address(Ipv4Addr::UNSPECIFIED.into()),
            session: &session,
        };
        let user = SocketUser::Known(self.workload.users.allowed.first().copied().unwrap_or(1000));
        let nonce = || Some([7; 16]);
        let edge =
            EdgeChecks { rate_limited: false, host_rule: &HostRule::POD_LINK, socket_user: &|| user, nonce: &nonce };
        let state = RequestPod::Served { workload: &self.workload, tree: self.trees.get(&dialect) };
        evaluate(dialect, &request, state, &edge, &self.keys, now())
    }

    /// Returns the names that a directory lists, in the form used in paths. Empty if the directory does not exist.
    pub(crate) fn names(&self, dialect: Dialect, directory: &str) -> Vec<String> {
        let Some(Lookup::Listing(lines)) = self.get(dialect, directory) else { return Vec::new() };
        let numbered = dialect == Dialect::Ec2 && directory.trim_end_matches('/').ends_with("/public-keys");
        let name = |line: &str| match line.split_once('=') {
            Some((number, _)) if numbered => number.to_owned(),
            _ => line.trim_end_matches('/').to_owned(),
        };
        std::str::from_utf8(&lines).unwrap().lines().map(name).collect()
    }

    /// Returns true if a path is a metadata item of the pod's profile or one of its parent directories.
    pub(crate) fn has_item(&self, dialect: Dialect, path: &str) -> bool {
        let items = &self.workload.part(dialect).unwrap().items;
        items.iter().any(|(item, _)| {
            let item = format!("/latest/meta-data/{item}");
            if path.ends_with('/') { item.starts_with(path) } else { item == path }
        })
    }
}
