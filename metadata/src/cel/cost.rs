//! Upper bound of the cost of an expression, from its syntax tree and the sizes of the facts.
//!
//! Cost is counted in bytes that an evaluation allocates, copies or compares. Each node of the syntax tree, each value and
//! each iteration adds a fixed amount. So the cost bounds memory and time. The crate shares values where it can; the bound
//! does not rely on that, except that a comprehension appends to its list in place.

mod bound;

use ::cel::common::ast::{
    ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, SelectExpr, operators,
};

use super::scope::Fact;
use crate::names::InvalidValue;
use bound::Bound;
pub(super) use bound::Size;

/// Maximum cost of all expressions of a pod together, in bytes of work.
pub const MAX_COST: u64 = 4_000_000;

/// Cost of any evaluation: the bound itself, and the message of an error.
const EVALUATION_COST: u64 = 4096;

/// Cost of visiting one node of the syntax tree: names are looked up, and the result is allocated.
const NODE_COST: u64 = 128;

/// Cost of one iteration of a comprehension: the loop variables are set.
const ITERATION_COST: u64 = 512;

/// Cost of the memory for one element of a list.
const ELEMENT_COST: u64 = 16;

/// Maximum length of the text of a number, a Boolean or a type, in bytes. The longest is a number of 64 bits with a fraction.
const MAX_SCALAR_TEXT_BYTES: usize = 400;

/// Returns an upper bound of the cost of an evaluation.
///
/// # Errors
/// If the expression calls an unknown function or reads a hidden fact.
pub(super) fn upper_bound(tree: &IdedExpr, facts: &Fact) -> Result<u64, InvalidValue> {
    let mut estimate = Estimate { facts, variables: Vec::new(), cost: EVALUATION_COST };
    let result = estimate.operand(tree)?;
    // The result is converted, then formatted.
    Ok(estimate.cost + 2 * result.size.copy_cost())
}

struct Estimate<'e, 'f> {
    facts: &'f Fact,
    /// The loop variables in scope.
    variables: Vec<(&'e str, Bound<'f>)>,
    cost: u64,
}

impl<'e, 'f> Estimate<'e, 'f> {
    /// Returns the bound of a node whose whole value is used, and adds its cost.
    ///
    /// # Errors
    /// If the node is a hidden fact or has one below it.
    fn operand(&mut self, expression: &'e IdedExpr) -> Result<Bound<'f>, InvalidValue> {
        let bound = self.node(expression)?;
        match bound.fact.and_then(|fact| fact.hidden.as_ref()) {
            Some(hidden) => Err(InvalidValue(hidden.to_string())),
            None => Ok(bound),
        }
    }

    /// Returns the bound of an operand that is copied, or compared, and adds its cost.
    fn copied(&mut self, expression: &'e IdedExpr) -> Result<Bound<'f>, InvalidValue> {
        let bound = self.operand(expression)?;
        self.cost += bound.size.copy_cost();
        Ok(bound)
    }

    /// Returns the bound of a node, and adds its cost. A hidden fact is returned like any other.
    fn node(&mut self, expression: &'e IdedExpr) -> Result<Bound<'f>, InvalidValue> {
        self.cost += NODE_COST;
        match &expression.expr {
            Expr::Literal(LiteralValue::String(text)) => Ok(Bound::any(Size::text(text.inner().len()))),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Ok(Bound::any(Size::text(bytes.inner().len()))),
            Expr::Literal(_) | Expr::Unspecified => Ok(Bound::scalar()),
            Expr::Ident(name) => Ok(self.variable(name)),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
                (operators::CONDITIONAL, None, [condition, one, other]) => self.conditional(condition, one, other),
                (operators::INDEX, None, [operand, index]) => self.index(operand, index),
                (operators::IN, None, [value, container]) => self.contains(value, container),
                (name, target, arguments) => self.call(name, target, arguments),
            },
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.entries(&map.entries),
            Expr::Struct(object) => self.entries(&object.entries),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    /// Returns the bound of a loop variable or a fact. The syntax check rejects other names.
    fn variable(&self, name: &str) -> Bound<'f> {
        let variable = self.variables.iter().rev().find(|(variable, _)| *variable == name);
        let fact = || self.facts.fields.get(name).map_or(Bound::scalar(), Bound::fact);
        variable.map_or_else(fact, |(_, bound)| *bound)
    }

    fn select(&mut self, select: &'e SelectExpr) -> Result<Bound<'f>, InvalidValue> {
        let operand = self.node(&select.operand)?;
        let selected = Self::member(operand, &select.field)?;
        match selected.fact.and_then(|fact| fact.hidden.as_ref()) {
            // The field was removed from the facts, so its presence is not known.
            Some(hidden) if select.test => Err(InvalidValue(hidden.to_string())),
            _ if select.test => Ok(Bound::scalar()),
            _ => Ok(selected),
        }
    }

    fn index(&mut self, operand: &'e IdedExpr, index: &'e IdedExpr) -> Result<Bound<'f>, InvalidValue> {
        if let Expr::Literal(LiteralValue::String(key)) = &index.expr {
            self.cost += NODE_COST + key.inner().len() as u64;
            let operand = self.node(operand)?;
            return Self::member(operand, key.inner());
        }
        let operand = self.operand(operand)?;
        self.copied(index)?;
        Ok(Bound::any(operand.member))
    }

    /// Returns the bound of a member with a constant name. If there is no such member, evaluation fails later, at no further
    /// cost.
    ///
    /// # Errors
    /// If the operand is a hidden fact.
    fn member(operand: Bound<'f>, name: &str) -> Result<Bound<'f>, InvalidValue> {
        let Some(fact) = operand.fact else { return Ok(Bound::any(operand.member)) };
        match (fact.fields.get(name), &fact.hidden) {
            (Some(field), _) => Ok(Bound::fact(field)),
            // The operand itself is hidden: it has no fields.
            (None, Some(hidden)) if fact.fields.is_empty() => Err(InvalidValue(hidden.to_string())),
            (None, _) => Ok(Bound::scalar()),
        }
    }

    fn conditional(
        &mut self,
        condition: &'e IdedExpr,
        one: &'e IdedExpr,
        other: &'e IdedExpr,
    ) -> Result<Bound<'f>, InvalidValue> {
        self.operand(condition)?;
        let before = self.cost;
        let one = self.operand(one)?;
        let cost_of_one = std::mem::replace(&mut self.cost, before);
        let other = self.operand(other)?;
        self.cost = self.cost.max(cost_of_one);
        Ok(one.max(other))
    }

    /// A key is looked up in a map of the facts without a copy of the map. Other containers are compared with the value.
    fn contains(&mut self, value: &'e IdedExpr, container: &'e IdedExpr) -> Result<Bound<'f>, InvalidValue> {
        self.copied(value)?;
        let container = self.operand(container)?;
        if container.fact.is_none_or(|fact| fact.fields.is_empty()) {
            self.cost += container.size.copy_cost();
        }
        Ok(Bound::scalar())
    }

    /// Returns the bound of the result of an operator or a function. Its operands are copied or compared as a whole.
    fn call(
        &mut self,
        name: &str,
        target: Option<&'e IdedExpr>,
        arguments: &'e [IdedExpr],
    ) -> Result<Bound<'f>, InvalidValue> {
        let mut operands = Bound { size: Size::default(), length: 0, member: Size::default(), fact: None };
        for operand in target.into_iter().chain(arguments) {
            operands = operands.plus(self.copied(operand)?);
        }
        match name {
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::NOT_STRICTLY_FALSE
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE
            | "size"
            | "contains"
            | "startsWith"
            | "endsWith"
            | "int"
            | "uint"
            | "double"
            | "bool" => Ok(Bound::scalar()),
            operators::ADD | "bytes" | "dyn" => Ok(operands),
            "string" | "type" => Ok(Bound::any(operands.size.plus(Size::text(MAX_SCALAR_TEXT_BYTES)))),
            // A function with an unknown result has an unknown cost.
            _ => Err(InvalidValue(format!("does not evaluate: unknown function {name:?}"))),
        }
    }

    fn list(&mut self, list: &'e ListExpr) -> Result<Bound<'f>, InvalidValue> {
        let mut bound = Bound { length: 0, ..Bound::scalar() };
        for element in &list.elements {
            self.add_member(&mut bound, element)?;
        }
        bound.length = list.elements.len() as u64;
        Ok(bound)
    }

    fn entries(&mut self, entries: &'e [IdedEntryExpr]) -> Result<Bound<'f>, InvalidValue> {
        let mut bound = Bound { length: 0, ..Bound::scalar() };
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.add_member(&mut bound, &field.value)?,
                EntryExpr::MapEntry(entry) => {
                    self.add_member(&mut bound, &entry.key)?;
                    self.add_member(&mut bound, &entry.value)?;
                }
            }
        }
        bound.length = entries.len() as u64;
        Ok(bound)
    }

    fn add_member(&mut self, bound: &mut Bound<'f>, member: &'e IdedExpr) -> Result<(), InvalidValue> {
        let member = self.copied(member)?;
        bound.size = bound.size.plus(member.size);
        bound.member = bound.member.max(member.size);
        Ok(())
    }

    /// Adds the cost of one iteration for each member of the range. The macros of CEL make the result grow by the same size
    /// in each iteration.
    fn comprehension(&mut self, comprehension: &'e ComprehensionExpr) -> Result<Bound<'f>, InvalidValue> {
        let range = self.operand(&comprehension.iter_range)?;
        // Room for the result is allocated before the first iteration. A text has room for each character, then fails.
        let is_list_or_map = range.fact.is_some_and(|fact| fact.length > 0);
        let room = if is_list_or_map { range.length } else { range.length.max(range.size.bytes) };
        self.cost += room * ELEMENT_COST;
        let start = self.copied(&comprehension.accu_init)?;
        let outside = self.variables.len();
        self.variables.push((&comprehension.accu_var, start));
        for name in std::iter::once(&comprehension.iter_var).chain(&comprehension.iter_var2) {
            self.variables.push((name, Bound::any(range.member)));
        }
        let before = self.cost;
        self.operand(&comprehension.loop_cond)?;
        let step = self.copied(&comprehension.loop_step)?;
        let iteration = self.cost - before + ITERATION_COST + 2 * range.member.copy_cost();
        self.cost = before + iteration * range.length;
        self.variables.truncate(outside);
        let growth = Size {
            values: step.size.values.saturating_sub(start.size.values),
            bytes: step.size.bytes.saturating_sub(start.size.bytes),
        };
        let result = Bound {
            size: start.size.plus(growth.times(range.length)),
            length: start.length + step.length.saturating_sub(start.length) * range.length,
            member: step.member.max(start.member),
            fact: None,
        };
        self.variables.push((&comprehension.accu_var, result));
        let result = self.copied(&comprehension.result)?;
        self.variables.truncate(outside);
        Ok(result)
    }
}
