//! Fuzz targets. Each target checks properties that must be true for every input, and panics on a violation.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a target fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use jiff::Timestamp;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_metadata::cel::{Expression, Scope};
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::{EdgeChecks, RequestPod, SocketUser, evaluate};
use podmeta_metadata::host::HostRule;
use podmeta_metadata::options::TokenTtl;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::rejection::RejectedRequest;
use podmeta_metadata::request::{IpFamily, Request, is_token_path};
use podmeta_metadata::session::{KeyBytes, Keyring, LastToken};
use podmeta_metadata::tree::{Lookup, SinceVersion, Tree, TreeBuilder};
use podmeta_metadata::workload::{Link, Workload};
use podmeta_node_agent::broker::{Broker, FileBroker};
use podmeta_node_agent::dev::DevState;
use podmeta_node_agent::dev::InputFile;
use podmeta_node_agent::edge::{Arrival, Edge, EdgeServer, PodView};
use tokio_util::sync::CancellationToken;

use crate::conformance::{pipe, signer};

/// The objects of the conformance cases.
pub(super) const OBJECTS: &str = include_str!("../../cases/objects/standard.yaml");

/// Placeholder in inputs of [`request`] and [`token`] for a valid token of the pod.
pub const TOKEN: &str = "${token}";

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_767_601_320)
}

fn keys() -> Keyring {
    Keyring::new(KeyBytes::new([7; 32]), now())
}

fn dev_state() -> &'static DevState {
    static DEV_STATE: OnceLock<DevState> = OnceLock::new();
    DEV_STATE.get_or_init(|| {
        let text = InputFile { name: "objects".to_owned(), text: OBJECTS.to_owned() };
        DevState::compile(&[text], now(), &Settings::default()).unwrap()
    })
}

/// Returns a served pod of the conformance cases.
fn pod(name: &str) -> (&'static Workload, &'static Link) {
    match dev_state().pods.get(name).map(|pod| &pod.view) {
        Some(PodView::Served(workload, link)) => (workload, link),
        other => panic!("{name} is not served: {other:?}"),
    }
}

/// Returns the IPv4 service address of a dialect.
fn service(dialect: Dialect) -> IpAddr {
    dialect.service_address(Ipv4Addr::UNSPECIFIED.into())
}

fn token_of(workload: &Workload, dialect: Dialect) -> String {
    keys().issue(&workload.pod.uid, dialect, TokenTtl::MAX, [7; 16], now()).unwrap()
}

/// Sends the input as the bytes of a connection. The edge must return HTTP or nothing. It must not return data of the
/// pod without a token, and never data of another pod.
pub fn request(input: &[u8]) {
    let (web, _) = pod("default/web");
    let (other, other_link) = pod("default/other");
    for dialect in Dialect::ALL {
        let token = token_of(web, dialect);
        let bytes = replace(input, TOKEN, &token);
        let received = responses_to(web, dialect, &bytes);
        let text = String::from_utf8_lossy(&received);
        assert!(text.is_empty() || text.starts_with("HTTP/1."), "not an HTTP response: {text}");
        for secret in [other.pod.uid.as_str(), &other_link.mac.to_string()] {
            assert!(!text.contains(secret), "response contains {secret} of another pod: {text}");
        }
        if !contains(&bytes, token.as_bytes()) {
            let own = web.part(dialect).unwrap().instance_id.as_str();
            assert!(
                !text.contains("instance-id") && !text.contains(own),
                "response contains metadata without a token: {text}"
            );
        }
    }
}

/// Returns everything that the edge sends in response to `bytes`.
fn responses_to(workload: &Workload, dialect: Dialect, bytes: &[u8]) -> Vec<u8> {
    static EDGE: OnceLock<Arc<Edge>> = OnceLock::new();
    let edge = EDGE.get_or_init(|| {
        let signer = signer().unwrap();
        let edge = Edge::new(keys(), Broker::Files(FileBroker::new(signer)), Arc::new(now));
        edge.publish(dev_state().pods.values().map(|pod| (pod.uid.clone(), pod.view.clone())));
        edge
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (connection, edge_end) = pipe();
        let server = EdgeServer::new(Arc::clone(edge), CancellationToken::new());
        let pod = workload.pod.uid.clone();
        let arrival = Arrival {
            pod,
            service: service(dialect),
            family: IpFamily::Ipv4,
            host_rule: &HostRule::POD_LINK,
            owner: None,
        };
        let served = tokio::spawn(async move { server.serve(edge_end, Box::new(arrival)).await });
        let received = connection.until_closed(bytes).await;
        assert!(served.await.is_ok(), "the connection task panicked");
        received
    })
}

/// Parses the input as a path. The canonical form, percent-encoded, must lead to the same decision.
pub fn path(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else { return };
    if uri.authority().is_some() || !uri.path().starts_with('/') {
        return; // rejected before the lookup
    }
    let (web, link) = pod("default/web");
    for dialect in Dialect::ALL {
        let tree = dialect.protocol().render(web, link);
        let decision = decide(web, tree.as_ref(), dialect, &uri);
        let Some(canonical) = CanonicalPath::parse(uri.path()) else {
            assert!(decision.is_err(), "{uri} has no canonical path, but was served");
            continue;
        };
        let (first, rest) = canonical.split_first();
        assert!(!first.contains('/') && !rest.contains("//") && !rest.starts_with('/') && !rest.ends_with('/'));
        let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let encoded_path = format!("/{first}/{rest}").split('/').map(encode).collect::<Vec<_>>().join("/");
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let again = format!("{encoded_path}{query}").parse::<Uri>().unwrap();
        if !is_token_path(&again) && !is_token_path(&uri) {
            assert_eq!(
                decide(web, tree.as_ref(), dialect, &again),
                decision,
                "{uri} and {encoded_path} lead to different decisions"
            );
        }
    }
}

/// Returns the decision for a request with a valid token, formatted as text.
fn decide(workload: &Workload, tree: Option<&Tree>, dialect: Dialect, uri: &Uri) -> Result<String, RejectedRequest> {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_static("169.254.169.254"));
    let token = HeaderValue::try_from(token_of(workload, dialect)).unwrap();
    headers.insert(&dialect.protocol().token_headers().unwrap().token, token);
    let path = CanonicalPath::parse(uri.path());
    let request = Request {
        method: &Method::GET,
        uri,
        path: path.as_ref(),
        version: Version::HTTP_11,
        headers: &headers,
        service: service(dialect),
        session: &LastToken::default(),
    };
    let edge = EdgeChecks {
        rate_limited: false,
        host_rule: &HostRule::POD_LINK,
        socket_user: &|| SocketUser::NotFound,
        nonce: &|| Some([7; 16]),
    };
    let state = RequestPod::Served { workload, tree };
    evaluate(dialect, &request, state, &edge, &keys(), now()).map(|decision| format!("{decision:?}"))
}

/// Verifies the input as a token. Only the issued token may be accepted.
pub fn token(input: &[u8]) {
    let (web, _) = pod("default/web");
    let given = token_of(web, Dialect::Ec2);
    let sent = replace(input, TOKEN, &given);
    let last = LastToken::default();
    let verify = |sent: &[u8]| keys().verify(sent, &last, &web.pod.uid, Dialect::Ec2, now());
    assert_eq!(verify(&sent).is_ok(), sent == given.as_bytes(), "{:?}", String::from_utf8_lossy(&sent));
    assert!(verify(given.as_bytes()).is_ok());
    assert_eq!(verify(&sent).is_ok(), sent == given.as_bytes(), "second check of {:?}", String::from_utf8_lossy(&sent));
}

/// Loads the input as manifests. Each error must be one line that names the file. Paths of the compiled trees must not
/// contain control characters that split a listing.
pub fn objects(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (objects, problems) = load(&[ManifestFile { name: "fuzz.yaml".to_owned(), text: text.to_owned() }], now());
    for problem in &problems {
        let line = problem.to_string();
        assert!(
            line.starts_with("fuzz.yaml") && !line.contains('\n'),
            "error is not one line with the file name: {line:?}"
        );
    }
    let link = pod("default/web").1;
    for pod in &objects.pods {
        let compiled =
            compile(&pod.facts, &objects.profiles, &objects.policies, &ConfigMapValues::new(), &Settings::default());
        if let Outcome::Served(workload) = compiled.outcome {
            for tree in Dialect::ALL.into_iter().filter_map(|dialect| dialect.protocol().render(&workload, link)) {
                for path in tree.paths() {
                    assert!(!path.contains(['\n', '\r', '\0']), "path {path:?} splits a listing");
                }
            }
        }
    }
}

/// Compiles and evaluates the input as a CEL expression over the facts of a pod. Errors must have a message.
pub fn cel(input: &[u8]) {
    static FACTS: OnceLock<podmeta_metadata::facts::Facts> = OnceLock::new();
    let facts = FACTS.get_or_init(|| {
        let (objects, _) = load(&[ManifestFile { name: "objects".to_owned(), text: OBJECTS.to_owned() }], now());
        objects.pods.first().map(|pod| pod.facts.clone()).unwrap()
    });
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(expression) = Expression::compile(text) {
        let mut scope = Scope::new(facts).unwrap();
        match expression.evaluate(&mut scope) {
            Ok(_) => {}
            Err(error) => assert!(!error.to_string().is_empty(), "evaluation of {text:?} fails without a message"),
        }
    }
}

/// Checks the input as a tag key. An allowed key must be one line of the listing, and its path must resolve.
pub fn tag(input: &[u8]) {
    let Ok(key) = std::str::from_utf8(input) else { return };
    for dialect in Dialect::ALL {
        if dialect.protocol().check_tag_key(key).is_err() {
            continue;
        }
        let mut tree = TreeBuilder::new(|_, name| format!("{name}/"));
        tree.add_text(SinceVersion(0), format!("tags/{key}"), "value");
        let tree = tree.build();
        let listing = match tree.get("tags", SinceVersion(0)) {
            Some(Lookup::Listing(listing)) => listing,
            other => panic!("key {key:?} breaks the tags directory: {other:?}"),
        };
        assert_eq!(listing, key.as_bytes(), "listing of key {key:?} differs from the key");
        let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        let path = format!("/latest/tags/{encoded}");
        let canonical = CanonicalPath::parse(&path).unwrap_or_else(|| panic!("key {key:?} has no canonical path"));
        assert!(tree.get(canonical.split_first().1, SinceVersion(0)).is_some(), "path of key {key:?} does not resolve");
    }
}

fn replace(input: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.windows(name.len()).position(|window| window == name.as_bytes()) {
        let (before, after) = rest.split_at(at);
        replaced.extend_from_slice(before);
        replaced.extend_from_slice(value.as_bytes());
        rest = after.get(name.len()..).unwrap_or_default();
    }
    replaced.extend_from_slice(rest);
    replaced
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
