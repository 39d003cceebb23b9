//! What is answered, for programs: the names of these fields are a contract (docs/vrctl.md).

use std::fmt;

use serde::Serialize;

use super::question::Question;
use crate::{
    print::Row,
    table::{Column, text},
};

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// An entry of the answer to many questions.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    /// The question was understood.
    Answer(Box<Answer>),
    /// It was not, or an end does not exist.
    Error(Unanswered),
}

/// A question without an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Unanswered {
    /// Why.
    pub(crate) error: String,
}

/// What the policies of both ends say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    /// Allow if both directions are. None: who was asked does not judge all of it.
    pub(crate) verdict: Option<Verdict>,
    /// What the destination's policies say.
    pub(crate) ingress: Option<Verdict>,
    /// What the source's policies say.
    pub(crate) egress: Option<Verdict>,
    pub(crate) from: EndView,
    pub(crate) to: EndView,
    pub(crate) protocol: &'static str,
    pub(crate) port: Option<u16>,
    pub(crate) ingress_reason: Reason,
    pub(crate) egress_reason: Reason,
    /// Sentences: what else the reader should know.
    pub(crate) notes: Vec<String>,
}

/// An end of the connection.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EndView {
    /// `namespace/name`, if it is a pod.
    pub(crate) pod: Option<String>,
    /// The address that is judged by.
    pub(crate) ip: String,
    /// Where it is, if it is in the cluster and that is known.
    pub(crate) node: Option<String>,
}

/// Why one direction is allowed or denied.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reason {
    pub(crate) cause: Cause,
    /// The node that judges it.
    pub(crate) node: Option<String>,
    /// The policies that isolate the end in this direction: `namespace/name`.
    pub(crate) policies: Vec<String>,
    /// The rule that allows it.
    pub(crate) rule: Option<RuleView>,
    /// A sentence.
    pub(crate) text: String,
}

/// What decides a direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// A rule allows it.
    Rule,
    /// The end is isolated and no rule allows it.
    NoRule,
    /// No policy isolates the end in this direction.
    NotIsolated,
    /// The end is a pod on its node's network, which policies do not isolate.
    HostNetwork,
    /// The end is no pod of the cluster.
    NotAPod,
    /// Both ends are the same pod.
    Itself,
    /// The source is the pod's own node.
    OwnNode,
    /// The end is not on the node that was asked: its own node judges.
    NotHere,
}

/// A rule of a policy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RuleView {
    /// `namespace/name`.
    pub(crate) policy: String,
    /// Its position in the policy's list `spec.ingress` or `spec.egress`, from 0.
    pub(crate) index: Option<u32>,
    /// The rule's peer in the policy: `spec.ingress[0].from[1]`; `spec.ingress[0]` if the rule is
    /// for every peer.
    pub(crate) path: String,
}

impl Verdict {
    /// Of what is allowed if `is_allowed`.
    pub(crate) fn of(is_allowed: bool) -> Self {
        if is_allowed { Self::Allow } else { Self::Deny }
    }
}

/// A verdict for people.
pub(crate) fn word(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Allow) => "allow",
        Some(Verdict::Deny) => "deny",
        None => "unknown",
    }
}

impl Reason {
    /// Whether the direction is allowed; `None` if that is not known.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self.cause {
            Cause::NotHere => None,
            cause => Some(Verdict::of(cause != Cause::NoRule)),
        }
    }
}

impl RuleView {
    /// A rule by its policy and path.
    pub(crate) fn new(policy: &str, path: &str) -> Self {
        let index = path.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let index = index.and_then(|(digits, _)| digits.parse().ok());
        Self { policy: policy.to_owned(), index, path: path.to_owned() }
    }
}

impl fmt::Display for RuleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy, self.path)
    }
}

impl EndView {
    /// For people: the pod and its address, or the address alone.
    pub(crate) fn describe(&self) -> String {
        let node = self.node.as_deref();
        match (&self.pod, node) {
            (Some(pod), Some(node)) => format!("{pod} ({}, {node})", self.ip),
            (Some(pod), None) => format!("{pod} ({})", self.ip),
            (None, Some(node)) => format!("{} (node {node})", self.ip),
            (None, None) => format!("{} (no pod's address)", self.ip),
        }
    }

    fn short(&self) -> &str {
        self.pod.as_deref().unwrap_or(&self.ip)
    }
}

impl Answer {
    /// Puts both directions together.
    pub(crate) fn new(
        question: &Question,
        [from, to]: [EndView; 2],
        egress_reason: Reason,
        ingress_reason: Reason,
        notes: Vec<String>,
    ) -> Self {
        let (egress, ingress) = (egress_reason.verdict(), ingress_reason.verdict());
        let verdict = match (egress, ingress) {
            (Some(Verdict::Deny), _) | (_, Some(Verdict::Deny)) => Some(Verdict::Deny),
            (Some(Verdict::Allow), Some(Verdict::Allow)) => Some(Verdict::Allow),
            _ => None,
        };
        let (protocol, port) = (question.protocol.word(), question.port);
        Self {
            verdict,
            ingress,
            egress,
            from,
            to,
            protocol,
            port,
            ingress_reason,
            egress_reason,
            notes,
        }
    }

    /// The protocol and the port: `TCP 80`.
    pub(crate) fn traffic(&self) -> String {
        traffic(self.protocol, self.port)
    }
}

/// A protocol and a port: `TCP 80`.
pub(crate) fn traffic(protocol: &str, port: Option<u16>) -> String {
    port.map_or_else(|| protocol.to_owned(), |port| format!("{protocol} {port}"))
}

impl Row for Entry {
    const COLUMNS: &'static [Column] = &[
        text("VERDICT"),
        text("EGRESS"),
        text("INGRESS"),
        text("FROM"),
        text("TO"),
        text("PROTOCOL"),
        text("WHY"),
    ];

    fn cells(&self) -> Vec<String> {
        let Self::Answer(answer) = self else {
            let Self::Error(Unanswered { error }) = self else { return Vec::new() };
            let mut cells = vec![String::new(); Self::COLUMNS.len() - 1];
            "error".clone_into(&mut cells[0]);
            cells.push(error.clone());
            return cells;
        };
        let denies = [&answer.egress_reason, &answer.ingress_reason];
        let is_denied = |reason: &&&Reason| reason.verdict() == Some(Verdict::Deny);
        let why = denies.iter().find(is_denied);
        let rules = denies.iter().filter_map(|reason| reason.rule.as_ref());
        let why = match why {
            Some(reason) => reason.text.clone(),
            None => rules.map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        vec![
            word(answer.verdict).to_owned(),
            word(answer.egress).to_owned(),
            word(answer.ingress).to_owned(),
            answer.from.short().to_owned(),
            answer.to.short().to_owned(),
            answer.traffic(),
            why,
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        let end = EndView { pod: None, ip: String::new(), node: None };
        let rule = RuleView::new("shop/web", "spec.ingress[12].from[1]");
        assert_eq!(rule.index, Some(12));
        assert_documented("explain rule", &rule);
        let reason = Reason {
            cause: Cause::Rule,
            node: None,
            policies: Vec::new(),
            rule: Some(rule),
            text: String::new(),
        };
        assert_documented("explain from", &end);
        assert_documented("explain ingress_reason", &reason);
        assert_documented("explain error", &Unanswered { error: String::new() });
        let question = json!({"from": {"ip": "10.0.0.1"}, "to": {"ip": "10.0.0.2"}, "port": 80});
        let question = Question::from_json(&question).unwrap();
        let answer = Answer::new(&question, [end.clone(), end], reason.clone(), reason, Vec::new());
        assert_documented("explain", &answer);
    }
}
