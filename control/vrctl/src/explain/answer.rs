//! What is answered, for programs: the names of these fields are a contract (docs/vrctl.md).

use std::fmt;

use serde::Serialize;

use crate::{
    print::Row,
    table::{Column, text},
};

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// An entry of the answer to many questions.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Entry {
    /// The question was understood.
    Answer(Box<Answer>),
    /// It was not, or an end does not exist.
    Error(Unanswered),
}

/// A question without an answer.
#[derive(Debug, Serialize)]
pub(super) struct Unanswered {
    /// Why.
    pub(super) error: String,
}

/// What the policies of both ends say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    /// Allow if both directions are.
    pub(super) verdict: Verdict,
    /// What the destination's policies say.
    pub(super) ingress: Verdict,
    /// What the source's policies say.
    pub(super) egress: Verdict,
    pub(super) from: EndView,
    pub(super) to: EndView,
    pub(super) protocol: &'static str,
    pub(super) port: Option<u16>,
    pub(super) ingress_reason: Reason,
    pub(super) egress_reason: Reason,
    /// Sentences: what else the reader should know.
    pub(super) notes: Vec<String>,
}

/// An end of the connection.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EndView {
    /// `namespace/name`, if it is a pod.
    pub(super) pod: Option<String>,
    /// The address that is judged by.
    pub(super) ip: String,
    /// Where it is, if it is in the cluster and that is known.
    pub(super) node: Option<String>,
}

/// Why one direction is allowed or denied.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reason {
    pub(super) cause: Cause,
    /// The node that judges it.
    pub(super) node: Option<String>,
    /// The policies that isolate the end in this direction: `namespace/name`.
    pub(super) policies: Vec<String>,
    /// The rule that allows it.
    pub(super) rule: Option<RuleView>,
    /// A sentence.
    pub(super) text: String,
}

/// What decides a direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
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
}

/// A rule of a policy.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RuleView {
    /// `namespace/name`.
    pub(super) policy: String,
    /// Its position in the policy's list `spec.ingress` or `spec.egress`, from 0.
    pub(super) index: Option<u32>,
    /// The rule's peer in the policy: `spec.ingress[0].from[1]`; `spec.ingress[0]` if the rule is
    /// for every peer.
    pub(super) path: String,
}

impl Verdict {
    /// Of what is allowed if `is_allowed`.
    pub(super) fn of(is_allowed: bool) -> Self {
        if is_allowed { Self::Allow } else { Self::Deny }
    }

    /// The word in the answer.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Reason {
    /// Whether the direction is allowed.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::of(self.cause != Cause::NoRule)
    }
}

impl RuleView {
    /// A rule by its policy and path.
    pub(super) fn new(policy: &str, path: &str) -> Self {
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
    pub(super) fn describe(&self) -> String {
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
    /// The protocol and the port: `TCP 80`.
    pub(super) fn traffic(&self) -> String {
        traffic(self.protocol, self.port)
    }
}

/// A protocol and a port: `TCP 80`.
pub(super) fn traffic(protocol: &str, port: Option<u16>) -> String {
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
        let why = denies.iter().find(|reason| reason.verdict() == Verdict::Deny);
        let rules = denies.iter().filter_map(|reason| reason.rule.as_ref());
        let why = match why {
            Some(reason) => reason.text.clone(),
            None => rules.map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        vec![
            answer.verdict.to_string(),
            answer.egress.to_string(),
            answer.ingress.to_string(),
            answer.from.short().to_owned(),
            answer.to.short().to_owned(),
            answer.traffic(),
            why,
        ]
    }
}

#[cfg(test)]
mod tests {
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
        let answer = Answer {
            verdict: Verdict::Allow,
            ingress: Verdict::Allow,
            egress: Verdict::Allow,
            from: end.clone(),
            to: end,
            protocol: "TCP",
            port: Some(80),
            ingress_reason: reason.clone(),
            egress_reason: reason,
            notes: Vec::new(),
        };
        assert_documented("explain", &answer);
    }
}
