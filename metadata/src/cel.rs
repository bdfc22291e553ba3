//! CEL expressions over [`Facts`](crate::facts::Facts), with limits that the `cel` crate does not have.
//!
//! An expression is at most [`MAX_BYTES`] long and [`MAX_DEPTH`] deep. It does not nest comprehensions. It refers to
//! `pod`, `namespaceObject`, `node` and its own loop variables only. The syntax tree is checked before the first
//! evaluation.
//!
//! An evaluation cannot be stopped, so its cost is bounded before it starts: [`MAX_COST`] for all expressions of a pod. The
//! bound depends on the syntax tree and on the sizes of the facts, never on time. All replicas agree on it.
//!
//! Only the standard functions exist, without `matches`. With an extension such as `replace`, a chain of calls could
//! grow text without a limit. A regular expression would be compiled for each evaluation: 0.3 s for one of six bytes.

mod cost;
mod scope;
mod syntax;
#[cfg(test)]
mod tests;
mod visible;

use std::fmt::{self, Write};
use std::sync::Arc;

use ::cel::common::ast::IdedExpr;
use ::cel::parser::Parser;
use ::cel::{ExecutionError, ParseErrors, Value};

use crate::names::InvalidValue;

pub use cost::MAX_COST;
pub use scope::Scope;
pub use visible::{MAX_ENTRIES, MAX_ENTRIES_BYTES};

/// Maximum length of an expression, in bytes.
pub const MAX_BYTES: usize = 1024;

/// Maximum nesting of operators, calls and fields. Evaluation recurses: a sum of 500 terms overflows 2 MiB of stack.
pub const MAX_DEPTH: usize = 64;

/// Maximum nesting of brackets and conditions. The parser recurses.
const MAX_BRACKETS: u16 = 24;

/// Maximum length of the message of a failed evaluation, in bytes. The error of the `cel` crate can hold whole facts.
const MAX_ERROR_BYTES: usize = 256;

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
    /// If it is too long or too deep, does not parse, uses an unknown name or nests comprehensions.
    pub fn compile(source: &str) -> Result<Self, InvalidValue> {
        if source.len() > MAX_BYTES {
            return Err(InvalidValue(format!("must be at most {MAX_BYTES} bytes long, not {}", source.len())));
        }
        let tree = Parser::default().max_recursion_depth(MAX_BRACKETS).parse(source).map_err(compile_error)?;
        syntax::check(&tree)?;
        Ok(Self { source: source.into(), tree: Arc::new(tree) })
    }

    /// Returns an upper bound of the cost of an evaluation; see [`MAX_COST`].
    ///
    /// # Errors
    /// If the expression calls an unknown function, or reads facts that are hidden from expressions.
    pub fn cost(&self, scope: &Scope) -> Result<u64, InvalidValue> {
        cost::upper_bound(&self.tree, scope.facts())
    }

    /// Evaluates the expression. Returns `None` if the result is null. Subtracts its cost from what is left of the scope.
    ///
    /// # Errors
    /// If the cost exceeds the remaining cost of the scope, or evaluation fails, such as for a missing key. Also if the
    /// result is not text, a number, a Boolean or null.
    pub fn evaluate(&self, scope: &mut Scope) -> Result<Option<String>, InvalidValue> {
        scope.spend(self.cost(scope)?)?;
        match Value::resolve(&self.tree, scope.variables()).map_err(|error| evaluation_error(&error))? {
            Value::String(text) => Ok(Some(Arc::unwrap_or_clone(text))),
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

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
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

/// Returns the error as one line of at most [`MAX_ERROR_BYTES`].
fn evaluation_error(error: &ExecutionError) -> InvalidValue {
    let mut line = ErrorLine("does not evaluate: ".to_owned());
    // Fails if the line is full.
    let _full = write!(line, "{error}");
    InvalidValue(line.0)
}

/// One line of limited length. Formatting stops when it is full.
struct ErrorLine(String);

impl Write for ErrorLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() + character.len_utf8() > MAX_ERROR_BYTES {
                return Err(fmt::Error);
            }
            self.0.push(if character.is_control() { ' ' } else { character });
        }
        Ok(())
    }
}
