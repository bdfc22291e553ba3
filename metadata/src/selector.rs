//! Label selectors with the semantics of Kubernetes.

use std::collections::BTreeMap;

/// A label selector. An empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The requirements. All of them must match.
    pub requirements: Vec<Requirement>,
}

/// A requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values (`In`, `matchLabels`).
    In(String, Vec<String>),
    /// The label is absent or has none of these values (`NotIn`).
    NotIn(String, Vec<String>),
    /// The label exists (`Exists`).
    Exists(String),
    /// The label is absent (`DoesNotExist`).
    DoesNotExist(String),
}

impl Selector {
    /// Returns true if the selector matches an object with these labels.
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
    fn requirements_match_as_in_kubernetes() {
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
