use super::*;
use crate::facts::tests::facts;

fn evaluate(source: &str) -> Result<Option<String>, InvalidValue> {
    let mut facts = facts("shop", "web-0");
    facts.pod.metadata.labels.insert("app".into(), "web".into());
    Expression::compile(source)?.evaluate(&mut Scope::new(&facts)?)
}

#[test]
fn expression_reads_facts_in_kubernetes_form() {
    assert_eq!(evaluate("pod.metadata.namespace + '-' + pod.metadata.labels['app']").unwrap().unwrap(), "shop-web");
    assert_eq!(evaluate("namespaceObject.metadata.name").unwrap().unwrap(), "shop");
    assert_eq!(evaluate("size(pod.metadata.name)").unwrap().unwrap(), "5");
    assert_eq!(evaluate("node == null").unwrap().unwrap(), "true");
    assert_eq!(evaluate("'x' in pod.metadata.labels ? pod.metadata.labels.x : null").unwrap(), None);
    assert_eq!(evaluate("has(pod.spec.hostname)").unwrap().unwrap(), "false");
    assert_eq!(evaluate("pod.metadata.labels.exists(k, k == 'app')").unwrap().unwrap(), "true");
}

#[test]
fn invalid_expression_is_rejected_with_one_line() {
    for (source, reason) in [
        ("pod.", "does not compile"),
        ("env.SECRET", "unknown name \"env\""),
        ("[1].map(x, [2].map(y, x))", "nests a comprehension"),
        ("[[1]].map(x, x).map(y, y)", "nests a comprehension"),
        ("x", "unknown name \"x\""),
        ("'a'.replace('a', 'aa').foo", "does not evaluate"),
        ("'x'.matches('x')", "does not evaluate"),
        ("pod.metadata.labels.nothing", "does not evaluate"),
        ("[1]", "gives a"),
    ] {
        let error = evaluate(source).unwrap_err().to_string();
        assert!(error.contains(reason), "{source}: {error}");
        assert!(!error.contains('\n'), "{source}: {error}");
    }
    assert!(Expression::compile(&"1".repeat(MAX_BYTES + 1)).unwrap_err().to_string().contains("at most 1024"));
}

#[test]
fn longest_expressions_fit_a_2_mib_stack() {
    let chain = format!("1{}", "+1".repeat((MAX_BYTES - 1) / 2));
    let depth = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    let not = format!("{}true", "!".repeat(1000));
    let index = format!("pod{}", ".a".repeat(500));
    let list = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for source in [chain, depth, not, index, list] {
                drop(evaluate(&source));
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

/// Returns the result with labels of this number, and an annotation of this length.
fn with_sizes(source: &str, labels: usize, annotation: usize) -> Result<Option<String>, InvalidValue> {
    let mut facts = facts("shop", "web-0");
    facts.pod.metadata.labels = (0..labels).map(|index| (format!("l{index}"), "v".to_owned())).collect();
    facts.pod.metadata.annotations.insert("a".into(), "v".repeat(annotation));
    Expression::compile(source)?.evaluate(&mut Scope::new(&facts)?)
}

#[test]
fn facts_over_a_limit_cannot_be_read_in_any_way() {
    for source in [
        "pod.metadata.labels.l1",
        "pod.metadata.labels['l1']",
        "has(pod.metadata.labels.l1)",
        "'l1' in pod.metadata.labels",
        "pod.metadata.labels.size()",
        "pod.metadata.labels.all(k, true)",
        "[1].map(x, pod.metadata)[0].labels.l1",
        "(true ? pod : null).metadata.labels.l1",
        "has(pod.metadata.labels)",
        "pod.metadata == null",
        "dyn(pod) == null",
    ] {
        assert!(with_sizes(source, MAX_ENTRIES, 1).is_ok() || source.contains("[0]"), "{source}");
        let error = with_sizes(source, MAX_ENTRIES + 1, 1).unwrap_err().to_string();
        assert!(error.contains("pod.metadata.labels, which has 129 entries"), "{source}: {error}");
    }
}

#[test]
fn other_facts_than_those_over_a_limit_are_read() {
    let evaluate = |source| with_sizes(source, MAX_ENTRIES, MAX_ENTRIES_BYTES);
    assert!(evaluate("pod.metadata.annotations.a").is_err());
    assert_eq!(evaluate("pod.metadata.name + pod.metadata.labels['l7']").unwrap().unwrap(), "web-0v");
    assert_eq!(evaluate("'l1' in pod.metadata.labels && has(pod.metadata.labels.l2)").unwrap().unwrap(), "true");
    assert_eq!(with_sizes("pod.metadata.annotations.a", 1, MAX_ENTRIES_BYTES - 1).unwrap().unwrap().len(), 32_767);
}

#[test]
fn common_expressions_of_a_large_pod_are_within_the_limit() {
    for (source, times) in [
        ("'l1' in pod.metadata.labels ? pod.metadata.labels['l1'] : null", 64),
        ("pod.metadata.namespace + '/' + pod.metadata.name + '/' + pod.metadata.annotations.a", 64),
        ("pod.metadata.labels.exists(k, k.startsWith('l12') && pod.metadata.labels[k] == 'v')", 3),
        ("pod.metadata.labels.filter(k, k.endsWith('7')).size()", 4),
    ] {
        let mut facts = facts("shop", "web-0");
        facts.pod.metadata.labels = (0..MAX_ENTRIES).map(|index| (format!("l{index}"), "v".to_owned())).collect();
        facts.pod.metadata.annotations.insert("a".into(), "v".repeat(1024));
        let (expression, mut scope) = (Expression::compile(source).unwrap(), Scope::new(&facts).unwrap());
        for _ in 0..times {
            expression.evaluate(&mut scope).unwrap_or_else(|error| panic!("{source}: {error}"));
        }
    }
}

#[test]
fn expressions_of_a_pod_share_one_limit() {
    let facts = facts("shop", "web-0");
    let mut scope = Scope::new(&facts).unwrap();
    let expression = Expression::compile(&format!("size([{}])", ["pod"; 200].join(","))).unwrap();
    let cost = expression.cost(&scope).unwrap();
    for _ in 0..MAX_COST / cost {
        assert_eq!(expression.evaluate(&mut scope).unwrap().unwrap(), "200");
    }
    let error = expression.evaluate(&mut scope).unwrap_err().to_string();
    let left = MAX_COST % cost;
    let limit = format!("of the limit of {MAX_COST} for all expressions of a pod, {left} is left");
    assert_eq!(error, format!("costs up to {cost}; {limit}"));
    assert!(Expression::compile("1").unwrap().evaluate(&mut scope).is_ok());
}

#[test]
fn error_of_evaluation_is_one_short_line() {
    let error = with_sizes("pod.metadata.labels[pod.metadata.annotations.a + '\\n']", 1, 4096).unwrap_err().to_string();
    assert!(error.starts_with("does not evaluate: ") && error.len() <= MAX_ERROR_BYTES, "{error}");
    let error = with_sizes("{}['\\n']", 1, 1).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
}

/// They are accepted by the parser. The crate has had functions and literals that panic.
#[test]
fn unsupported_parts_of_the_language_are_errors() {
    for source in ["a.B{c: 1} == null", "Foo{}", "nothing(1)", "'a'.nothing()", "'a'.matches('a')", "{1.5: 1}"] {
        let error = evaluate(source).unwrap_err().to_string();
        assert!(error.contains("does not evaluate") || error.contains("unknown name"), "{source}: {error}");
    }
}
