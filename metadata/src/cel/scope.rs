//! The facts of one pod as CEL variables, with their sizes and the remaining cost of the pod's expressions.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ::cel::objects::Key;
use ::cel::{Context, Env, Value};

use super::cost::{MAX_COST, Size};
use super::visible::{Hidden, visible};
use crate::facts::Facts;
use crate::names::InvalidValue;

/// The standard functions. They are the same for all pods.
static FUNCTIONS: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The facts of one pod as CEL variables, for all expressions of the pod.
pub struct Scope {
    variables: Context<'static, 'static>,
    /// The variables as members of one map.
    facts: Fact,
    remaining_cost: u64,
}

/// The size of one fact, and the facts below it.
pub(super) struct Fact {
    /// The value with everything below it.
    pub(super) size: Size,
    /// The number of entries of a map, or of elements of a list.
    pub(super) length: u64,
    /// An upper bound of each key, value and element.
    pub(super) member: Size,
    pub(super) fields: BTreeMap<String, Fact>,
    /// The fact that is hidden, in this fact or below it.
    pub(super) hidden: Option<Hidden>,
}

impl Scope {
    /// Creates the variables. `node` is null if the pod has no node.
    ///
    /// # Errors
    /// If a fact cannot be converted (internal error).
    pub fn new(facts: &Facts) -> Result<Self, InvalidValue> {
        let (facts, hidden) = visible(facts);
        let mut root = Fact::new(&Value::Null);
        let mut variables = Context::with_env(Arc::clone(&FUNCTIONS));
        let mut add = |name: &str, value: Value| {
            root.fields.insert(name.to_owned(), Fact::new(&value));
            variables.add_variable_from_value(name, value);
        };
        add("pod", value(&facts.pod)?);
        add("namespaceObject", value(&facts.namespace)?);
        add("node", value(&facts.node)?);
        hidden.into_iter().for_each(|hidden| root.hide(hidden.path, hidden));
        Ok(Self { variables, facts: root, remaining_cost: MAX_COST })
    }

    /// Returns the cost that the remaining expressions of the pod may have.
    #[must_use]
    pub fn remaining_cost(&self) -> u64 {
        self.remaining_cost
    }

    pub(super) fn variables(&self) -> &Context<'static, 'static> {
        &self.variables
    }

    pub(super) fn facts(&self) -> &Fact {
        &self.facts
    }

    /// Subtracts the cost of an expression from the remaining cost.
    ///
    /// # Errors
    /// If less cost remains.
    pub(super) fn spend(&mut self, cost: u64) -> Result<(), InvalidValue> {
        let remaining = self.remaining_cost;
        self.remaining_cost = remaining.checked_sub(cost).ok_or_else(|| {
            InvalidValue(format!(
                "costs up to {cost}; of the limit of {MAX_COST} for all expressions of a pod, {remaining} is left"
            ))
        })?;
        Ok(())
    }
}

fn value(fact: &impl serde::Serialize) -> Result<Value, InvalidValue> {
    ::cel::to_value(fact)
        .map_err(|error| InvalidValue(format!("internal error: cannot convert the facts to CEL: {error}")))
}

impl Fact {
    fn new(value: &Value) -> Self {
        let mut fact =
            Self { size: Size::text(0), length: 0, member: Size::default(), fields: BTreeMap::new(), hidden: None };
        match value {
            Value::String(text) => fact.size = Size::text(text.len()),
            Value::List(elements) => elements.iter().for_each(|element| fact.add(&Self::new(element))),
            Value::Map(map) => {
                for (key, value) in map.map.iter() {
                    let Key::String(key) = key else { continue };
                    let value = Self::new(value);
                    fact.size = fact.size.plus(Size::key(key.len()));
                    fact.member = fact.member.max(Size::text(key.len()));
                    fact.add(&value);
                    fact.fields.insert(key.to_string(), value);
                }
            }
            // Facts are text, numbers, Booleans, null, and lists and maps of these.
            _ => {}
        }
        fact
    }

    fn add(&mut self, member: &Self) {
        self.length += 1;
        self.size = self.size.plus(member.size);
        self.member = self.member.max(member.size);
    }

    /// Marks the fact at a path as hidden, and the facts above it as containing a hidden fact.
    fn hide(&mut self, path: &[&str], hidden: Hidden) {
        self.hidden.get_or_insert(hidden);
        if let [field, rest @ ..] = path {
            self.fields.entry((*field).to_owned()).or_insert_with(|| Self::new(&Value::Null)).hide(rest, hidden);
        }
    }
}
