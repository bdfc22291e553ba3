//! CEL expressions over [`Facts`], with limits that the `cel` crate does not have.
//!
//! An expression is at most [`MAX_BYTES`] long and [`MAX_DEPTH`] deep. It does not nest comprehensions. It refers to
//! `pod`, `namespaceObject`, `node` and its own loop variables only. The syntax tree is checked before the first
//! evaluation.
//!
//! Only the standard functions exist, without `matches`. With an extension such as `replace`, a chain of calls could
//! grow text without a limit. A regular expression would be compiled for each evaluation: 0.3 s for one of six bytes.

use std::sync::Arc;

use ::cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use ::cel::parser::Parser;
use ::cel::{Context, ParseErrors, Value};

use crate::facts::Facts;
use crate::names::InvalidValue;

/// Maximum length of an expression, in bytes.
pub const MAX_BYTES: usize = 1024;

/// Maximum nesting of operators, calls and fields. Evaluation recurses: a sum of 500 terms overflows 2 MiB of stack.
pub const MAX_DEPTH: usize = 64;

/// Maximum nesting of brackets and conditions. The parser recurses.
const MAX_BRACKETS: u16 = 24;

/// The variables of an expression. `namespace` is a reserved word of CEL, so the name is `namespaceObject`, as in
/// ValidatingAdmissionPolicy.
const VARIABLES: [&str; 3] = ["pod", "namespaceObject", "node"];

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    tree: Arc<IdedExpr>,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// If it is too long, does not parse, uses an unknown name or nests comprehensions.
    pub fn compile(source: &str) -> Result<Self, InvalidValue> {
        if source.len() > MAX_BYTES {
            return Err(InvalidValue(format!("must be at most {MAX_BYTES} bytes long, not {}", source.len())));
        }
        let tree = Parser::default().max_recursion_depth(MAX_BRACKETS).parse(source).map_err(compile_error)?;
        check(&tree, &mut VARIABLES.to_vec(), Nesting::Outside, MAX_DEPTH)?;
        Ok(Self { source: source.into(), tree: Arc::new(tree) })
    }

    /// Evaluates the expression. Returns `None` if the result is null.
    ///
    /// # Errors
    /// If evaluation fails, such as for a missing key, or if the result is not text, a number, a Boolean or null.
    pub fn evaluate(&self, scope: &Scope) -> Result<Option<String>, InvalidValue> {
        match Value::resolve(&self.tree, &scope.0)
            .map_err(|error| InvalidValue(format!("does not evaluate: {error}")))?
        {
            Value::String(text) => Ok(Some(text.to_string())),
            Value::Int(number) => Ok(Some(number.to_string())),
            Value::UInt(number) => Ok(Some(number.to_string())),
            Value::Float(number) => Ok(Some(number.to_string())),
            Value::Bool(value) => Ok(Some(value.to_string())),
            Value::Null => Ok(None),
            other => Err(InvalidValue(format!(
                "gives a {:?}; it must give text, a number, a Boolean or null",
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

/// The facts of one pod as CEL variables, for all expressions of the pod.
pub struct Scope(Context<'static, 'static>);

impl Scope {
    /// Creates the variables. `node` is null if the pod has no node.
    ///
    /// # Errors
    /// If a fact cannot be converted (internal error).
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
    ::cel::to_value(fact)
        .map_err(|error| InvalidValue(format!("internal error: cannot convert the facts to CEL: {error}")))
}

/// Returns the first error, as one line.
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

/// Checks a syntax tree. `names` are the names in scope, `depth` is the remaining nesting.
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
            "unknown name {name:?}; the variables are pod, namespaceObject and node, see docs/facts.md"
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
}
