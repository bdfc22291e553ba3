//! Checks of the syntax tree: depth, names and nested comprehensions.

use ::cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};

use super::MAX_DEPTH;
use crate::names::InvalidValue;

/// The variables of an expression. `namespace` is a reserved word of CEL, so the name is `namespaceObject`, as in
/// ValidatingAdmissionPolicy.
const VARIABLES: [&str; 3] = ["pod", "namespaceObject", "node"];

/// Checks the syntax tree of an expression.
pub(super) fn check(tree: &IdedExpr) -> Result<(), InvalidValue> {
    check_node(tree, &mut VARIABLES.to_vec(), Nesting::Outside, MAX_DEPTH)
}

#[derive(Clone, Copy, PartialEq)]
enum Nesting {
    Outside,
    InComprehension,
}

/// Checks a node and the nodes below it. `names` are the names in scope, `depth` is the remaining nesting.
fn check_node<'e>(
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
        Expr::Select(select) => check_node(&select.operand, names, nesting, depth),
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target.into_iter().chain(&call.args).try_for_each(|part| check_node(part, names, nesting, depth))
        }
        Expr::List(list) => list.elements.iter().try_for_each(|element| check_node(element, names, nesting, depth)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| check_entry(entry, names, nesting, depth)),
        Expr::Struct(object) => object.entries.iter().try_for_each(|entry| check_entry(entry, names, nesting, depth)),
        Expr::Comprehension(_) if nesting == Nesting::InComprehension => {
            Err(InvalidValue("nests a comprehension (all, exists, exists_one, map, filter) in another".to_owned()))
        }
        Expr::Comprehension(loops) => {
            let outside = names.len();
            check_node(&loops.iter_range, names, Nesting::InComprehension, depth)?;
            names.extend([loops.iter_var.as_str(), loops.accu_var.as_str()]);
            names.extend(loops.iter_var2.as_deref());
            for part in [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result] {
                check_node(part, names, Nesting::InComprehension, depth)?;
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
        EntryExpr::StructField(field) => check_node(&field.value, names, nesting, depth),
        EntryExpr::MapEntry(entry) => {
            check_node(&entry.key, names, nesting, depth)?;
            check_node(&entry.value, names, nesting, depth)
        }
    }
}
