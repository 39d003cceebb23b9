//! The form of a policy's `spec`: fields that do not exist, and values of wrong types.
//!
//! Typed reading passes over fields that it does not know, and gives up at the first wrong type.
//! Both are mistakes that may open a pod: `form` instead of `from` means every peer, and a policy
//! that is not read closes nothing. So the form is examined first, and what is wrong is taken out:
//! the rest can be read, and allows no more than what was meant. Metadata, `status` and fields
//! beside `spec` are not looked at.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use super::{
    problem::{Consequence, Fault, FieldFault},
    section::Direction,
};

/// A `NetworkPolicy` object, and what of it could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyObject {
    pub(super) object: NetworkPolicy,
    pub(super) faults: Vec<(FieldFault, Consequence)>,
    /// Rules that allow nothing, by position.
    pub(super) closed_rules: BTreeSet<(Direction, usize)>,
    /// Whether it allows nothing at all.
    pub(super) is_closed: bool,
    /// Whether it isolates in both directions, whatever its types say.
    pub(super) isolates_both: bool,
}

/// What a value must be.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    Number,
    TextOrNumber,
    /// Any keys, with texts.
    Texts,
    List(&'static Form),
    Fields(&'static [(&'static str, Form)]),
}

const REQUIREMENT: Form =
    Form::Fields(&[("key", Form::Text), ("operator", Form::Text), ("values", TEXTS)]);
const TEXTS: Form = Form::List(&Form::Text);
const SELECTOR: Form =
    Form::Fields(&[("matchLabels", Form::Texts), ("matchExpressions", Form::List(&REQUIREMENT))]);
const BLOCK: Form = Form::Fields(&[("cidr", Form::Text), ("except", TEXTS)]);
const PEERS: Form = Form::List(&Form::Fields(&[
    ("podSelector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("ipBlock", BLOCK),
]));
const PORTS: Form = Form::List(&Form::Fields(&[
    ("protocol", Form::Text),
    ("port", Form::TextOrNumber),
    ("endPort", Form::Number),
]));
const INGRESS_RULE: Form = Form::Fields(&[("from", PEERS), ("ports", PORTS)]);
const EGRESS_RULE: Form = Form::Fields(&[("to", PEERS), ("ports", PORTS)]);

impl PolicyObject {
    /// Reads an object as a manifest has it.
    ///
    /// # Errors
    ///
    /// Fails if something beside its `spec` is of a wrong type: there is no telling what it is.
    pub fn read(mut object: Value) -> Result<Self, serde_path_to_error::Error<serde_json::Error>> {
        let mut read = Self::default();
        if let Some(spec) = object.get_mut("spec") {
            read.take_spec(spec);
        }
        Ok(Self { object: serde_path_to_error::deserialize(object)?, ..read })
    }

    /// Its typed object, without what could not be read.
    #[must_use]
    pub fn object(&self) -> &NetworkPolicy {
        &self.object
    }

    fn take_spec(&mut self, spec: &mut Value) {
        let fields = match spec {
            Value::Object(fields) => fields,
            Value::Null => return,
            other => {
                self.close(wrong_type(other, "an object").at("spec"));
                *other = Value::Null;
                return;
            }
        };
        for (name, value) in fields {
            let path = format!("spec.{name}");
            match name.as_str() {
                "podSelector" => self.take_selector(value, &path),
                "policyTypes" => {
                    for fault in faults(TEXTS, value, &path) {
                        self.isolates_both = true;
                        self.faults.push((fault, Consequence::IsolatesBoth));
                        *value = Value::Null;
                    }
                }
                "ingress" => self.take_rules(Direction::Ingress, value, &path),
                "egress" => self.take_rules(Direction::Egress, value, &path),
                _ => {
                    let known = "podSelector, policyTypes, ingress, egress".to_owned();
                    self.close(Fault::UnknownField { known }.at(path));
                }
            }
        }
    }

    /// Leaves what can be read of the selector: it selects the pods that are meant, and more.
    fn take_selector(&mut self, selector: &mut Value, path: &str) {
        let faults = faults(SELECTOR, selector, path);
        if faults.is_empty() {
            return;
        }
        self.is_closed = true;
        let consequence = Consequence::PolicyAllowsNothing;
        self.faults.extend(faults.into_iter().map(|fault| (fault, consequence)));
        match selector.get_mut("matchLabels") {
            Some(Value::Object(labels)) => labels.retain(|_, value| value.is_string()),
            Some(other) => *other = Value::Null,
            None => {}
        }
        match selector.get_mut("matchExpressions") {
            Some(Value::Array(list)) => {
                list.retain(|one| !one.is_null() && self::faults(REQUIREMENT, one, "").is_empty());
            }
            Some(other) => *other = Value::Null,
            None => {}
        }
        if !selector.is_object() {
            *selector = Value::Null;
        }
    }

    fn take_rules(&mut self, direction: Direction, rules: &mut Value, path: &str) {
        let form = match direction {
            Direction::Ingress => INGRESS_RULE,
            Direction::Egress => EGRESS_RULE,
        };
        let list = match rules {
            Value::Array(list) => list,
            Value::Null => return,
            other => {
                self.close(wrong_type(other, "a list").at(path));
                *other = Value::Null;
                return;
            }
        };
        for (index, rule) in list.iter_mut().enumerate() {
            let path = format!("{path}[{index}]");
            let mut faults = faults(form, rule, &path);
            if rule.is_null() {
                faults.push(wrong_type(rule, "an object").at(&path));
            }
            if faults.is_empty() {
                continue;
            }
            self.closed_rules.insert((direction, index));
            let consequence = Consequence::RuleAllowsNothing;
            self.faults.extend(faults.into_iter().map(|fault| (fault, consequence)));
            // It keeps its place, so that paths are right.
            *rule = Value::Object(serde_json::Map::new());
        }
    }

    /// Nobody can tell what is meant: whoever may be is isolated, in both directions.
    fn close(&mut self, fault: FieldFault) {
        (self.is_closed, self.isolates_both) = (true, true);
        self.faults.push((fault, Consequence::PolicyAllowsNothing));
    }
}

impl From<&NetworkPolicy> for PolicyObject {
    fn from(object: &NetworkPolicy) -> Self {
        Self { object: object.clone(), ..Self::default() }
    }
}

fn faults(form: Form, value: &Value, path: &str) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    examine(form, value, path, &mut faults);
    faults
}

/// `null` is an absent field.
fn examine(form: Form, value: &Value, path: &str, faults: &mut Vec<FieldFault>) {
    let expected = match (form, value) {
        (_, Value::Null) | (Form::Text | Form::TextOrNumber, Value::String(_)) => return,
        (Form::Number | Form::TextOrNumber, Value::Number(number)) => {
            if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) {
                return;
            }
            "a whole number of 32 bits"
        }
        (Form::Texts, Value::Object(map)) => {
            for (key, value) in map.iter().filter(|(_, value)| !value.is_string()) {
                faults.push(wrong_type(value, "a text").at(format!("{path}[{key}]")));
            }
            return;
        }
        (Form::List(item), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                let path = format!("{path}[{index}]");
                if value.is_null() {
                    faults.push(wrong_type(value, "an item").at(&path));
                }
                examine(*item, value, &path, faults);
            }
            return;
        }
        (Form::Fields(known), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                if let Some((_, form)) = known.iter().find(|(known, _)| known == name) {
                    examine(*form, value, &path, faults);
                } else {
                    let known: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                    faults.push(Fault::UnknownField { known: known.join(", ") }.at(path));
                }
            }
            return;
        }
        (Form::Text, _) => "a text (a number in quotes)",
        (Form::Number, _) => "a number (without quotes)",
        (Form::TextOrNumber, _) => "a number or a name",
        (Form::List(_), _) => "a list",
        (Form::Texts | Form::Fields(_), _) => "an object",
    };
    faults.push(wrong_type(value, expected).at(path));
}

fn wrong_type(value: &Value, expected: &'static str) -> Fault {
    let found = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Fault::WrongType { found, expected }
}
