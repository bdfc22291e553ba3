//! Label selectors, as Kubernetes evaluates them.

use std::collections::BTreeMap;

/// A label selector; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// All of these must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement on the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label is there with one of these values (`In`, `matchLabels`).
    In(String, Vec<String>),
    /// The label is absent or has none of these values (`NotIn`).
    NotIn(String, Vec<String>),
    /// The label is there (`Exists`).
    Exists(String),
    /// The label is absent (`DoesNotExist`).
    DoesNotExist(String),
}

impl Selector {
    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_selects_as_kubernetes_does() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let selects = |requirement| Selector { requirements: vec![requirement] }.matches(&labels);
        let (app, other, web) = ("app".to_owned(), "other".to_owned(), vec!["web".to_owned()]);
        assert!(Selector::default().matches(&labels));
        assert!(selects(Requirement::In(app.clone(), web.clone())));
        assert!(!selects(Requirement::In(other.clone(), web.clone())));
        assert!(!selects(Requirement::NotIn(app.clone(), web.clone())));
        assert!(selects(Requirement::NotIn(other.clone(), web)));
        assert!(selects(Requirement::Exists(app.clone())));
        assert!(!selects(Requirement::Exists(other.clone())));
        assert!(!selects(Requirement::DoesNotExist(app)));
        assert!(selects(Requirement::DoesNotExist(other)));
    }
}
