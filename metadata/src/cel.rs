//! CEL expressions over [`Facts`], bounded: the `cel` crate has no budget of its own.
//!
//! An expression is at most [`MAX_BYTES`] long and [`MAX_DEPTH`] deep, nests no comprehension in another and names nothing but `pod`,
//! `namespaceObject`, `node` and its own loop variables; all of that is checked on the syntax tree before it runs once.
//! Only the standard functions exist, without `matches`: with an extension such as `replace` a chain of calls grows its
//! text without bound, and a regular expression is compiled again each time, 0.3 s for one of six bytes.

use std::sync::Arc;

use ::cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use ::cel::parser::Parser;
use ::cel::{Context, ParseErrors, Value};

use crate::facts::Facts;
use crate::names::InvalidValue;

/// The longest expression, in bytes.
pub const MAX_BYTES: usize = 1024;

/// How deep operators, calls and fields may nest: evaluation recurses, and 500 terms of a sum overflow 2 MiB of stack.
pub const MAX_DEPTH: usize = 64;

/// How deep brackets and conditions may nest, because the parser recurses.
const MAX_BRACKETS: u16 = 24;

/// The names that an expression may use for the facts. `namespace` is a reserved word of CEL; Kubernetes' own policies
/// say `namespaceObject` too.
const VARIABLES: [&str; 3] = ["pod", "namespaceObject", "node"];

/// An expression that was compiled, once for its profile.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    tree: Arc<IdedExpr>,
}

impl Expression {
    /// Compiles `source`.
    ///
    /// # Errors
    /// If it is too long, does not parse, names something unknown or nests comprehensions.
    pub fn compile(source: &str) -> Result<Self, InvalidValue> {
        if source.len() > MAX_BYTES {
            return Err(InvalidValue(format!("must be at most {MAX_BYTES} bytes long, not {}", source.len())));
        }
        let tree = Parser::default().max_recursion_depth(MAX_BRACKETS).parse(source).map_err(compile_error)?;
        check(&tree, &mut VARIABLES.to_vec(), Nesting::Outside, MAX_DEPTH)?;
        Ok(Self { source: source.into(), tree: Arc::new(tree) })
    }

    /// Evaluates the expression; `None` if the result is null, which leaves the item out.
    ///
    /// # Errors
    /// If evaluation fails (a missing key, for one) or the result is neither text, a number, a truth value nor null.
    pub fn evaluate(&self, scope: &Scope) -> Result<Option<String>, InvalidValue> {
        match Value::resolve(&self.tree, &scope.0)
            .map_err(|error| InvalidValue(format!("does not evaluate: {error}")))?
        {
            Value::String(text) => Ok(Some(text.to_string())),
            Value::Int(number) => Ok(Some(number.to_string())),
            Value::UInt(number) => Ok(Some(number.to_string())),
            Value::Float(number) => Ok(Some(number.to_string())),
            Value::Bool(truth) => Ok(Some(truth.to_string())),
            Value::Null => Ok(None),
            other => Err(InvalidValue(format!(
                "gives a {:?}; it must give text, a number, a truth value or null",
                other.type_of()
            ))),
        }
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// The facts of one pod as CEL sees them, made once for all its expressions.
pub struct Scope(Context<'static, 'static>);

impl Scope {
    /// Makes the three variables from `facts`; `node` is null while the pod has none.
    ///
    /// # Errors
    /// If a fact has no form in CEL; no fact is like that.
    pub fn new(facts: &Facts) -> Result<Self, InvalidValue> {
        let mut context = Context::default();
        let mut add = |name: &'static str, value| -> Result<(), InvalidValue> {
            context.add_variable_from_value(name, value);
            Ok(())
        };
        add("pod", value(&facts.pod)?)?;
        add("namespaceObject", value(&facts.namespace)?)?;
        add("node", value(&facts.node)?)?;
        Ok(Self(context))
    }
}

fn value(fact: &impl serde::Serialize) -> Result<Value, InvalidValue> {
    ::cel::to_value(fact).map_err(|error| InvalidValue(format!("the facts have no form in CEL: {error}")))
}

/// The first error, as one line.
fn compile_error(errors: ParseErrors) -> InvalidValue {
    match errors.errors.first() {
        Some(error) if error.msg.contains("Recursion limit") => {
            InvalidValue(format!("nests brackets or conditions more than {MAX_BRACKETS} deep"))
        }
        Some(error) => {
            let message = error.msg.lines().next().unwrap_or_default();
            InvalidValue(format!("does not compile at column {}: {message}", error.pos.1.max(1)))
        }
        None => InvalidValue("does not compile".to_owned()),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Nesting {
    Outside,
    InComprehension,
}

/// Walks the syntax tree; `names` are those in scope, `depth` is how much deeper it may go.
fn check<'e>(
    expression: &'e IdedExpr,
    names: &mut Vec<&'e str>,
    nesting: Nesting,
    depth: usize,
) -> Result<(), InvalidValue> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(InvalidValue(format!("nests operators, calls or fields more than {MAX_DEPTH} deep")));
    };
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) if names.contains(&name.as_str()) => Ok(()),
        Expr::Ident(name) => Err(InvalidValue(format!(
            "names {name:?}; there are pod, namespaceObject and node, shaped as in docs/facts.md"
        ))),
        Expr::Select(select) => check(&select.operand, names, nesting, depth),
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target.into_iter().chain(&call.args).try_for_each(|part| check(part, names, nesting, depth))
        }
        Expr::List(list) => list.elements.iter().try_for_each(|element| check(element, names, nesting, depth)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| check_entry(entry, names, nesting, depth)),
        Expr::Struct(object) => object.entries.iter().try_for_each(|entry| check_entry(entry, names, nesting, depth)),
        Expr::Comprehension(_) if nesting == Nesting::InComprehension => {
            Err(InvalidValue("nests a comprehension (all, exists, exists_one, map, filter) in another".to_owned()))
        }
        Expr::Comprehension(loops) => {
            let outside = names.len();
            check(&loops.iter_range, names, Nesting::InComprehension, depth)?;
            names.extend([loops.iter_var.as_str(), loops.accu_var.as_str()]);
            names.extend(loops.iter_var2.as_deref());
            for part in [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result] {
                check(part, names, Nesting::InComprehension, depth)?;
            }
            names.truncate(outside);
            Ok(())
        }
    }
}

fn check_entry<'e>(
    entry: &'e IdedEntryExpr,
    names: &mut Vec<&'e str>,
    nesting: Nesting,
    depth: usize,
) -> Result<(), InvalidValue> {
    match &entry.expr {
        EntryExpr::StructField(field) => check(&field.value, names, nesting, depth),
        EntryExpr::MapEntry(entry) => {
            check(&entry.key, names, nesting, depth)?;
            check(&entry.value, names, nesting, depth)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::facts;

    fn evaluate(source: &str) -> Result<Option<String>, InvalidValue> {
        let mut facts = facts("shop", "web-0");
        facts.pod.metadata.labels.insert("app".into(), "web".into());
        Expression::compile(source)?.evaluate(&Scope::new(&facts)?)
    }

    #[test]
    fn an_expression_sees_the_facts_in_their_kubernetes_shape() {
        assert_eq!(evaluate("pod.metadata.namespace + '-' + pod.metadata.labels['app']").unwrap().unwrap(), "shop-web");
        assert_eq!(evaluate("namespaceObject.metadata.name").unwrap().unwrap(), "shop");
        assert_eq!(evaluate("size(pod.metadata.name)").unwrap().unwrap(), "5");
        assert_eq!(evaluate("node == null").unwrap().unwrap(), "true");
        assert_eq!(evaluate("'x' in pod.metadata.labels ? pod.metadata.labels.x : null").unwrap(), None);
        assert_eq!(evaluate("has(pod.spec.hostname)").unwrap().unwrap(), "false");
        assert_eq!(evaluate("pod.metadata.labels.exists(k, k == 'app')").unwrap().unwrap(), "true");
    }

    #[test]
    fn what_does_not_compile_is_refused_with_one_line() {
        for (source, why) in [
            ("pod.", "does not compile"),
            ("env.SECRET", "names \"env\""),
            ("[1].map(x, [2].map(y, x))", "nests a comprehension"),
            ("[[1]].map(x, x).map(y, y)", "nests a comprehension"),
            ("x", "names \"x\""),
            ("'a'.replace('a', 'aa').foo", "does not evaluate"),
            ("'x'.matches('x')", "does not evaluate"),
            ("pod.metadata.labels.nothing", "does not evaluate"),
            ("[1]", "gives a"),
        ] {
            let error = evaluate(source).unwrap_err().to_string();
            assert!(error.contains(why), "{source}: {error}");
            assert!(!error.contains('\n'), "{source}: {error}");
        }
        assert!(Expression::compile(&"1".repeat(MAX_BYTES + 1)).unwrap_err().to_string().contains("at most 1024"));
    }

    #[test]
    fn the_longest_expressions_fit_the_stack_of_a_small_thread() {
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
}
