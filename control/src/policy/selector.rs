//! Label selectors in a canonical form: two that say the same in other words are often equal.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::problem::{Fault, FieldFault};

/// The longest name part of a label's key, in bytes, as Kubernetes has it.
const LABEL_NAME_BYTES_MAX: usize = 63;

/// The longest prefix of a label's key, in bytes: a DNS name (RFC 1123 section 2.1).
const LABEL_PREFIX_BYTES_MAX: usize = 253;

/// The labels of a pod or a namespace, sorted by key: compact, and found by bisection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Labels(Box<[(Box<str>, Box<str>)]>);

/// What labels must be like. Matches if every requirement does; so without any it matches all.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Selector {
    /// Sorted, each once.
    requirements: Vec<Requirement>,
}

/// What one label must be like.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Requirement {
    key: String,
    condition: Condition,
}

/// The values of `In` and `NotIn` are sorted, each once, and at least one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Condition {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Labels {
    /// The value of a label.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let index = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(index).map(|(_, value)| &**value)
    }

    /// All labels, sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        let boxed = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
        Self(labels.iter().map(boxed).collect())
    }
}

impl Selector {
    /// Reads a selector; an absent one is an empty one here, which matches everything.
    pub(super) fn parse(selector: Option<&LabelSelector>, path: &str) -> Result<Self, FieldFault> {
        let (selector, faults) = Self::parse_rest(selector, path);
        faults.into_iter().next().map_or(Ok(selector), Err)
    }

    /// Reads what can be read of a selector, and names the rest. Without requirements that cannot
    /// be read it matches whatever the whole would match, and more.
    pub(super) fn parse_rest(
        selector: Option<&LabelSelector>,
        path: &str,
    ) -> (Self, Vec<FieldFault>) {
        let Some(selector) = selector else { return Default::default() };
        let (mut requirements, mut faults) = (Vec::new(), Vec::new());
        for (key, value) in selector.match_labels.iter().flatten() {
            match check_key(key) {
                Ok(()) => {
                    let condition = Condition::In(vec![value.clone()]);
                    requirements.push(Requirement { key: key.clone(), condition });
                }
                Err(fault) => faults.push(fault.at(format!("{path}.matchLabels"))),
            }
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            match Requirement::parse(expression, &format!("{path}.matchExpressions[{index}]")) {
                Ok(requirement) => requirements.push(requirement),
                Err(fault) => faults.push(fault),
            }
        }
        requirements.sort();
        requirements.dedup();
        (Self { requirements }, faults)
    }

    /// Whether labels are as they must be.
    pub(super) fn is_match(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.is_match(labels))
    }

    /// The labels of which an object must have at least one, as a key and its possible values: one
    /// such list for each requirement that asks for certain values.
    pub(super) fn anchors(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.requirements.iter().filter_map(|requirement| match &requirement.condition {
            Condition::In(values) => Some((requirement.key.as_str(), values.as_slice())),
            _ => None,
        })
    }
}

impl Requirement {
    fn parse(expression: &LabelSelectorRequirement, path: &str) -> Result<Self, FieldFault> {
        check_key(&expression.key).map_err(|fault| fault.at(format!("{path}.key")))?;
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        values.dedup();
        let operator = expression.operator.as_str();
        let condition = match (operator, values.is_empty()) {
            ("In", false) => Condition::In(values),
            ("NotIn", false) => Condition::NotIn(values),
            ("Exists", true) => Condition::Exists,
            ("DoesNotExist", true) => Condition::DoesNotExist,
            ("In" | "NotIn", true) => {
                let fault = Fault::ValuesMissing { operator: operator.to_owned() };
                return Err(fault.at(format!("{path}.values")));
            }
            ("Exists" | "DoesNotExist", false) => {
                let fault = Fault::ValuesUnexpected { operator: operator.to_owned() };
                return Err(fault.at(format!("{path}.values")));
            }
            _ => {
                let fault = Fault::UnknownOperator { operator: operator.to_owned() };
                return Err(fault.at(format!("{path}.operator")));
            }
        };
        Ok(Self { key: expression.key.clone(), condition })
    }

    /// An absent label is not any value: `NotIn` matches it, like `DoesNotExist`.
    fn is_match(&self, labels: &Labels) -> bool {
        let value = labels.value(&self.key);
        let is_one_of = |values: &[String]| {
            value
                .is_some_and(|value| values.binary_search_by(|one| one.as_str().cmp(value)).is_ok())
        };
        match &self.condition {
            Condition::In(values) => is_one_of(values),
            Condition::NotIn(values) => !is_one_of(values),
            Condition::Exists => value.is_some(),
            Condition::DoesNotExist => value.is_none(),
        }
    }
}

/// The canonical text. Different selectors have different texts: whatever objects may hold is
/// quoted.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for Requirement { key, condition } in &self.requirements {
            match condition {
                Condition::In(values) => write!(f, "{key:?} in {values:?};")?,
                Condition::NotIn(values) => write!(f, "{key:?} not in {values:?};")?,
                Condition::Exists => write!(f, "{key:?} exists;")?,
                Condition::DoesNotExist => write!(f, "{key:?} does not exist;")?,
            }
        }
        f.write_str("}")
    }
}

/// A key that no label can have is a mistake, and with `NotIn` one that matches everything. (Values
/// that no label can have are stored by clusters, and match nothing; they are let be.)
fn check_key(key: &str) -> Result<(), Fault> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| {
        let is_label = |label: &str| {
            is_bounded_by_alphanumerics(label)
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        prefix.len() <= LABEL_PREFIX_BYTES_MAX && prefix.split('.').all(is_label)
    };
    let is_name = name.len() <= LABEL_NAME_BYTES_MAX
        && is_bounded_by_alphanumerics(name)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if is_name && prefix.is_none_or(is_prefix) {
        Ok(())
    } else {
        Err(Fault::LabelKey { key: key.to_owned() })
    }
}

fn is_bounded_by_alphanumerics(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_alphanumeric(bytes.first()) && is_alphanumeric(bytes.last())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(selector: Value) -> Result<Selector, FieldFault> {
        Selector::parse(Some(&serde_json::from_value(selector).unwrap()), "spec.podSelector")
    }

    fn labels(labels: &[(&str, &str)]) -> Labels {
        let owned = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Labels::from(&owned.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn an_empty_and_an_absent_selector_match_everything() {
        assert!(parse(json!({})).unwrap().is_match(&labels(&[])));
        assert!(Selector::parse(None, "x").unwrap().is_match(&labels(&[("a", "b")])));
    }

    #[test]
    fn not_in_and_does_not_exist_match_an_absent_label() {
        let operator = |operator: &str, values: Value| {
            parse(json!({"matchExpressions": [
                {"key": "a", "operator": operator, "values": values}]}))
            .unwrap()
        };
        for (selector, absent, listed, other) in [
            (operator("In", json!(["1", "2"])), false, true, false),
            (operator("NotIn", json!(["1", "2"])), true, false, true),
            (operator("Exists", json!([])), false, true, true),
            (operator("DoesNotExist", json!([])), true, false, false),
        ] {
            assert_eq!(selector.is_match(&labels(&[("b", "1")])), absent, "{selector}");
            assert_eq!(selector.is_match(&labels(&[("a", "1")])), listed, "{selector}");
            assert_eq!(selector.is_match(&labels(&[("a", "3")])), other, "{selector}");
        }
    }

    #[test]
    fn the_same_in_other_words_is_equal() {
        let one = parse(json!({"matchLabels": {"b": "2", "a": "1"}})).unwrap();
        let other = parse(json!({"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1", "1"]},
            {"key": "b", "operator": "In", "values": ["2"]}], "matchLabels": {"a": "1"}}))
        .unwrap();
        assert_eq!(one, other);
        assert_eq!(one.to_string(), other.to_string());
    }

    #[test]
    fn texts_of_different_selectors_differ_whatever_they_hold() {
        let one = parse(json!({"matchLabels": {"a": "1\"];\"b\" in [\"2"}})).unwrap();
        let other = parse(json!({"matchLabels": {"a": "1", "b": "2"}})).unwrap();
        assert_ne!(one.to_string(), other.to_string());
    }

    #[test]
    fn bad_selectors_name_the_field() {
        let expression = |operator: &str, values: Value| {
            parse(json!({"matchExpressions": [
                {"key": "a", "operator": operator, "values": values}]}))
        };
        let at = |field: &str| format!("spec.podSelector.matchExpressions[0].{field}");
        for (result, field) in [
            (expression("Is", json!(["1"])), at("operator")),
            (expression("in", json!(["1"])), at("operator")),
            (expression("In", json!([])), at("values")),
            (expression("NotIn", json!(null)), at("values")),
            (expression("Exists", json!(["1"])), at("values")),
            (expression("DoesNotExist", json!(["1"])), at("values")),
            (parse(json!({"matchLabels": {"": "1"}})), "spec.podSelector.matchLabels".into()),
            (parse(json!({"matchLabels": {"a b": "1"}})), "spec.podSelector.matchLabels".into()),
            (parse(json!({"matchLabels": {"A.b/": "1"}})), "spec.podSelector.matchLabels".into()),
        ] {
            assert_eq!(result.unwrap_err().field, field);
        }
        assert!(parse(json!({"matchLabels": {"kubernetes.io/metadata.name": "x_Y.z"}})).is_ok());
    }
}
