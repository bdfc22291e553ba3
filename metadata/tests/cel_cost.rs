//! Search for expressions and facts whose evaluation allocates more than the bound of its cost. The allocator of this test
//! binary counts. Bytes and allocations are asserted, not time: they are the same on every machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use allocation_counter::{AllocationInfo, measure};
use jiff::Timestamp;
use podmeta_metadata::cel::{Expression, MAX_BYTES, MAX_COST, MAX_ENTRIES, MAX_ENTRIES_BYTES, Scope};
use podmeta_metadata::compile::{Compiled, Settings, Sources, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::facts::{
    Facts, NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, NodeStatus, PodFacts, PodMetadata,
    PodOrigin, PodSpec, PodStatus, Taint, Toleration,
};
use podmeta_metadata::finding::FindingReason;
use podmeta_metadata::item::{Item, ItemPath, ItemSource};
use podmeta_metadata::profile::{Profile, ProfileRef};

/// Maximum memory that the expressions of one pod need at once, in bytes.
const MAX_POD_BYTES: u64 = 8 << 20;

/// Number of generated expressions for each set of facts.
const ROUNDS: usize = 1000;

/// Number of items of a profile, the maximum of the API.
const ITEMS: usize = 64;

/// Generates expressions, repeatably.
struct Generator(u64);

impl Generator {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn choose<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn leaf(&mut self) -> String {
        let leaf = self.choose(&[
            "pod",
            "pod.metadata",
            "pod.metadata.labels",
            "pod.metadata.annotations",
            "pod.spec",
            "pod.spec.tolerations",
            "pod.spec.image",
            "namespaceObject",
            "namespaceObject.metadata.annotations",
            "node",
            "node.metadata.labels",
            "node.spec.taints",
            "pod.metadata.annotations['a0']",
            "pod.metadata.annotations.a1",
            "pod.metadata.name",
            "x",
            "x",
            "x",
            "1",
            "1.5e300",
            "-9223372036854775808",
            "5e-324",
            "true",
            "null",
            "'\\u0001'",
            "b'\\xff'",
            "[]",
            "{}",
            "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
            "has(pod.metadata.labels.a0)",
        ]);
        leaf.to_owned()
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.leaf();
        }
        let one = self.expression(depth - 1);
        match self.below(15) {
            0 | 1 => self.repeat(&one, ", ", "[", "]"),
            2 => self.repeat(&one, " + ", "", ""),
            3 => format!("{{'a': {one}, 'b': {}}}", self.expression(depth - 1)),
            4 => format!("{{{one}: {}}}", self.leaf()),
            5 | 6 => {
                let operator = self.choose(&["+", "==", "!=", "<", "in", "&&", "||", "-", "*", "/", "%"]);
                format!("({one} {operator} {})", self.expression(depth - 1))
            }
            7 => format!("({} ? {one} : {})", self.leaf(), self.leaf()),
            8 => format!("{one}[{}]", self.leaf()),
            9 => format!("{one}.metadata"),
            10 => {
                let function =
                    self.choose(&["size", "string", "int", "uint", "double", "bool", "bytes", "dyn", "type"]);
                format!("{function}({one})")
            }
            11 => {
                let function = self.choose(&["contains", "startsWith", "endsWith", "size", "value", "nothing"]);
                format!("{one}.{function}({})", self.leaf())
            }
            12 => self.repeat(&one, " || ", "", ""),
            _ => {
                let name = self.choose(&["map", "filter", "all", "exists", "exists_one"]);
                let range = self.leaf();
                format!("{range}.{name}(x, {one})")
            }
        }
    }

    /// Repeats a text up to the maximum length of an expression.
    fn repeat(&mut self, text: &str, separator: &str, before: &str, after: &str) -> String {
        let most = (MAX_BYTES - 2) / (text.len() + separator.len());
        let count = if self.below(2) == 0 { most } else { 1 + self.below(4) };
        format!("{before}{}{after}", vec![text; count.max(1)].join(separator))
    }

    /// Makes an expression more expensive.
    fn grow(&mut self, source: &str) -> String {
        let range = self.choose(&["pod.metadata.labels", "node.spec.taints", "[1,2,3]", "pod.metadata.annotations"]);
        match self.below(7) {
            0 => self.repeat(source, ",", "[", "]"),
            1 => self.repeat(source, "+", "", ""),
            2 => format!("{range}.map(x,{source})"),
            3 => format!("{range}.all(x,{source}=={source})"),
            4 => format!("{range}.exists(x,string({source})=='')"),
            5 => format!("({source}) + ({source})"),
            _ => source.replacen(self.choose(&["1", "x", "true", "null", "pod"]), &self.expression(1), 1),
        }
    }
}

fn entries(count: usize, key: &str, value: &str) -> BTreeMap<String, String> {
    (0..count).map(|index| (format!("{key}{index}"), value.to_owned())).collect()
}

/// Returns a pod, a namespace and a node with the same labels and annotations, and as many tolerations and taints as labels.
fn facts(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Facts {
    let toleration = Toleration { key: Some("k".into()), value: None, effect: None, toleration_seconds: Some(1) };
    let taint = Taint { key: "k".into(), value: "v".into(), effect: "e".into(), time_added: Timestamp::UNIX_EPOCH };
    Facts {
        pod: PodFacts {
            origin: PodOrigin::Client,
            metadata: PodMetadata {
                name: "web-0".into(),
                namespace: "shop".into(),
                uid: "uid".try_into().unwrap(),
                labels: labels.clone(),
                annotations: annotations.clone(),
                creation_timestamp: Timestamp::UNIX_EPOCH,
                deletion_timestamp: None,
                controller: None,
            },
            spec: PodSpec {
                image: "i".repeat(MAX_ENTRIES_BYTES),
                tolerations: vec![toleration; labels.len()],
                ..PodSpec::default()
            },
            status: PodStatus::default(),
        },
        namespace: NamespaceFacts {
            metadata: NamespaceMetadata {
                name: "shop".into(),
                labels: labels.clone(),
                annotations: annotations.clone(),
            },
        },
        node: Some(NodeFacts {
            metadata: NodeMetadata { name: "node-1".into(), labels: labels.clone() },
            spec: NodeSpec { pod_cidrs: Vec::new(), taints: vec![taint; labels.len()] },
            // The operator keeps at most 16 addresses of a node. The text of these is the longest.
            status: NodeStatus { addresses: vec!["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(); 16] },
        }),
    }
}

/// Facts at the limits, in several forms: many short values, few long ones, characters that are escaped in errors.
fn worst_facts() -> Vec<Facts> {
    let many = entries(MAX_ENTRIES, "a", &"v".repeat(MAX_ENTRIES_BYTES / MAX_ENTRIES - 4));
    let tiny = entries(MAX_ENTRIES, "a", "");
    let long = entries(8, "a", &"v".repeat(MAX_ENTRIES_BYTES / 8 - 2));
    let control = entries(8, "a", &"\u{1}".repeat(MAX_ENTRIES_BYTES / 8 - 2));
    vec![facts(&many, &many), facts(&tiny, &long), facts(&tiny, &control), facts(&entries(3, "a", "b"), &tiny)]
}

/// Facts far over the limits: a pod of 116 KB, 400 labels.
fn oversized_facts() -> Facts {
    facts(&entries(400, "label-", "value"), &entries(29, "a", &"v".repeat(4000)))
}

/// Returns a profile of 64 items, which repeat these expressions.
fn profile(sources: &[String]) -> Profile {
    let object = ProfileRef { namespace: "shop".into(), name: "web".into(), uid: "u".into(), generation: 1 };
    let mut profile = Profile::empty(object, Timestamp::UNIX_EPOCH);
    profile.dialects = BTreeSet::from(Dialect::ALL);
    let expressions: Vec<Expression> = sources.iter().map(|source| Expression::compile(source).unwrap()).collect();
    let items = expressions.into_iter().cycle().take(ITEMS).enumerate();
    let item = |(index, expression)| Item {
        dialect: Dialect::ALL[index % 2],
        path: ItemPath::try_from(format!("x{index}").as_str()).unwrap(),
        source: ItemSource::Expression(expression),
    };
    profile.items = items.map(item).collect();
    profile
}

fn compile_with(facts: &Facts, profile: &Profile) -> Compiled {
    compile(facts, &[profile], &[], &Sources::new(), &Settings::default())
}

/// Compiles a pod with a profile of these expressions.
fn compile_pod(facts: &Facts, sources: &[String]) -> (Compiled, AllocationInfo) {
    let (profile, mut compiled) = (profile(sources), None);
    let used = measure(|| compiled = Some(compile_with(facts, &profile)));
    (compiled.unwrap(), used)
}

/// Returns the processor time that this thread has used. Source: Linux, Documentation/scheduler/sched-stats.rst.
fn thread_time() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

/// Evaluates an expression and returns its cost, or `None` if it is not accepted. Panics if it needs more than the bound.
fn check(source: &str, scope: &mut Scope, facts: &Facts) -> Option<u64> {
    let expression = Expression::compile(source).ok()?;
    let cost = expression.cost(scope).ok()?;
    if cost > MAX_COST {
        return None;
    }
    if cost > scope.remaining_cost() {
        *scope = Scope::new(facts).unwrap();
    }
    let used = measure(|| drop(expression.evaluate(scope)));
    assert!(used.bytes_total <= cost, "{source}: allocates {} bytes, cost {cost}", used.bytes_total);
    assert!(used.count_total * 64 <= cost, "{source}: allocates {} times, cost {cost}", used.count_total);
    Some(cost)
}

/// Returns the 24 accepted expressions with the highest score, after checking all that were generated.
fn search(facts: &Facts, score: impl Fn(&str, u64) -> u64) -> Vec<String> {
    let mut generator = Generator(0x9e37_79b9_7f4a_7c15);
    let mut scope = Scope::new(facts).unwrap();
    let mut best: Vec<(u64, String)> = Vec::new();
    for round in 0..ROUNDS {
        let depth = 1 + round % 4;
        let source = if best.is_empty() || generator.below(3) == 0 {
            generator.expression(depth)
        } else {
            let chosen = generator.below(best.len());
            generator.grow(&best[chosen].1)
        };
        let source = source.trim().to_owned();
        if let Some(cost) = check(&source, &mut scope, facts)
            && !best.iter().any(|(_, known)| *known == source)
        {
            best.push((score(&source, cost), source));
            best.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
            best.truncate(24);
        }
    }
    best.into_iter().map(|(_, source)| source).collect()
}

#[test]
fn evaluation_allocates_at_most_its_cost() {
    for facts in worst_facts() {
        let best = search(&facts, |_, cost| cost);
        let scope = Scope::new(&facts).unwrap();
        let highest_cost = Expression::compile(&best[0]).unwrap().cost(&scope).unwrap();
        assert!(highest_cost > MAX_COST / 2, "the search found no expensive expression: {best:?}");
        for one in &best {
            let (compiled, used) = compile_pod(&facts, std::slice::from_ref(one));
            assert!(used.bytes_max <= MAX_POD_BYTES, "{one}: {} bytes at once", used.bytes_max);
            assert!(!compiled.findings.is_empty(), "64 times {one} is within the limit");
        }
        let (_, used) = compile_pod(&facts, &best);
        assert!(used.bytes_max <= MAX_POD_BYTES, "{} bytes at once", used.bytes_max);
    }
}

#[test]
fn scope_of_oversized_facts_needs_2_mib() {
    for facts in worst_facts().into_iter().chain([oversized_facts()]) {
        let used = measure(|| drop(Scope::new(&facts)));
        assert!(used.bytes_total <= 2 << 20, "{} bytes", used.bytes_total);
    }
}

/// The examples of the attack: a list of copies of a pod of 116 KB, and a loop over 400 labels in a loop.
#[test]
fn expression_over_a_limit_is_left_out_with_a_finding() {
    let copies = format!("string(size([{}]))", vec!["pod"; 200].join(","));
    let quadratic =
        "string(pod.metadata.labels.filter(k, pod.metadata.labels == pod.metadata.labels).size())".to_owned();
    let at_limit = worst_facts().remove(0);
    for (facts, source, limit) in [
        (oversized_facts(), &copies, "pod.metadata.labels, which has 400 entries"),
        (oversized_facts(), &quadratic, "an expression sees at most 128 entries and 32768 bytes"),
        (at_limit.clone(), &copies, "of the limit of 4000000 for all expressions of a pod, 4000000 is left"),
        (at_limit, &quadratic, "of the limit of 4000000 for all expressions of a pod, 4000000 is left"),
    ] {
        let (compiled, used) = compile_pod(&facts, std::slice::from_ref(source));
        assert!(used.bytes_total <= MAX_POD_BYTES, "{source}: {} bytes", used.bytes_total);
        assert_eq!(compiled.findings.len(), ITEMS);
        let finding = &compiled.findings[0];
        assert_eq!((&*finding.field, finding.reason), ("spec.metadata[0]", FindingReason::ItemUnavailable));
        assert!(finding.message.contains(limit), "{}", finding.message);
        assert!(compiled.outcome.workload().unwrap().dialects.values().all(|part| part.items.is_empty()));
    }
}

/// Searches for expressions that take much time for their cost. Run with `--release --ignored --nocapture`.
#[test]
#[ignore = "measures time"]
fn slowest_pod_takes_50_ms_of_one_processor() {
    let mut slowest = (Duration::ZERO, String::new());
    let mut most_bytes = 0;
    for facts in worst_facts() {
        let time_of_cost = |source: &str, cost: u64| {
            let expression = Expression::compile(source).unwrap();
            let mut scope = Scope::new(&facts).unwrap();
            let started = Instant::now();
            drop(expression.evaluate(&mut scope));
            u64::try_from(started.elapsed().as_nanos()).unwrap() * 1_000 / cost
        };
        for one in search(&facts, time_of_cost).into_iter().chain(search(&facts, |_, cost| cost)) {
            let profile = profile(std::slice::from_ref(&one));
            let times = [(); 3].map(|()| {
                let started = thread_time();
                compile_with(&facts, &profile);
                thread_time() - started
            });
            most_bytes = most_bytes.max(measure(|| drop(compile_with(&facts, &profile))).bytes_max);
            slowest = slowest.max((times.into_iter().min().unwrap(), one));
        }
    }
    println!("slowest pod: {:?}, most memory: {most_bytes} bytes; 64 times {}", slowest.0, slowest.1);
    assert!(slowest.0 <= Duration::from_millis(50));
}
