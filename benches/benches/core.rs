//! Micro-benchmarks of the core: tokens, evaluation of a request, compilation and rendering of a pod.

#![allow(clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use jiff::Timestamp;
use podmeta_crds::manifests::{LoadedObjects, ManifestFile, load};
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::{EdgeChecks, RequestPod, SocketUser, evaluate};
use podmeta_metadata::host::HostRule;
use podmeta_metadata::options::TokenTtl;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::request::Request;
use podmeta_metadata::session::{KeyBytes, Keyring, LastToken};
use podmeta_metadata::workload::{Link, MacAddress, Workload};

const FULL: &str = include_str!("../../examples/full.yaml");

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_767_601_320)
}

fn objects() -> LoadedObjects {
    let (objects, problems) = load(&[ManifestFile { name: "full.yaml".to_owned(), text: FULL.to_owned() }], now());
    assert!(problems.is_empty(), "{problems:?}");
    objects
}

fn compiled(objects: &LoadedObjects) -> Outcome {
    let pod = objects.pods.first().expect("the example has a pod");
    compile(&pod.facts, &objects.profiles, &objects.policies, &ConfigMapValues::new(), &Settings::default()).outcome
}

fn workload(objects: &LoadedObjects) -> Box<Workload> {
    match compiled(objects) {
        Outcome::Served(workload) => workload,
        other => panic!("the example's pod is not served: {other:?}"),
    }
}

fn link() -> Link {
    Link { ipv4: vec![[10, 0, 1, 23].into()], ipv6: Vec::new(), mac: MacAddress([2, 0, 0, 0, 0, 1]) }
}

fn benches(criterion: &mut Criterion) {
    let objects = objects();
    let workload = workload(&objects);
    let (pod, keys) = (&workload.pod.uid, Keyring::new(KeyBytes::new([7; 32]), now()));
    let issue = || keys.issue(pod, Dialect::Ec2, TokenTtl::MAX, [7; 16], now()).expect("token is issued");
    let token = issue();

    criterion.bench_function("token: issue", |bench| bench.iter(issue));
    criterion.bench_function("token: verify, first on a connection", |bench| {
        bench.iter(|| keys.verify(black_box(token.as_bytes()), &LastToken::default(), pod, Dialect::Ec2, now()));
    });
    let last = LastToken::default();
    criterion.bench_function("token: verify, cached on the connection", |bench| {
        bench.iter(|| keys.verify(black_box(token.as_bytes()), &last, pod, Dialect::Ec2, now()));
    });

    let ec2 = Dialect::Ec2.protocol();
    let tree = ec2.render(&workload, &link());
    let uri = Uri::from_static("/latest/meta-data/placement/availability-zone");
    let path = CanonicalPath::parse(uri.path());
    let mut headers = HeaderMap::new();
    headers.insert(http::header::HOST, HeaderValue::from_static("169.254.169.254"));
    headers.insert(
        &ec2.token_headers().expect("EC2 has session tokens").token,
        HeaderValue::try_from(&token).expect("token is a valid header value"),
    );
    let request = Request {
        method: &Method::GET,
        uri: &uri,
        path: path.as_ref(),
        version: Version::HTTP_11,
        headers: &headers,
        service: Dialect::Ec2.service_address([0, 0, 0, 0].into()),
        session: &last,
    };
    criterion.bench_function("request: evaluate and look up", |bench| {
        let edge = EdgeChecks {
            rate_limited: false,
            host_rule: &HostRule::POD_LINK,
            socket_user: &|| SocketUser::NotFound,
            nonce: &|| None,
        };
        let state = RequestPod::Served { workload: &workload, tree: tree.as_ref() };
        bench.iter(|| evaluate(Dialect::Ec2, black_box(&request), state, &edge, &keys, now()).is_ok());
    });

    criterion.bench_function("pod: compile", |bench| bench.iter(|| compiled(black_box(&objects))));
    criterion.bench_function("pod: render EC2 tree", |bench| {
        bench.iter(|| ec2.render(black_box(&workload), &link()));
    });
}

criterion_group!(core, benches);
criterion_main!(core);
