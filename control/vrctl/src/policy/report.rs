//! What would change, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::candidates::CONNECTIONS_MAX;
use crate::{
    exit::Failure,
    explain::{Answer, Direction, EndView, Reason, Verdict, traffic, word},
    print::{Printer, Row},
    table::{Column, text},
};

/// Ports of one row that people see; programs see all.
const SHOWN_PORTS_MAX: usize = 6;

/// A verdict that would change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Change {
    /// `flow` for a connection of the engine's, `new` for one that might be opened.
    kind: &'static str,
    direction: &'static str,
    from: EndView,
    to: EndView,
    /// Protocols and destination ports: of a flow one, of new connections all that change alike.
    traffic: Vec<String>,
    /// Of a flow.
    source_port: Option<u16>,
    before: Option<Verdict>,
    after: Option<Verdict>,
    before_reason: Reason,
    after_reason: Reason,
}

/// All changes, and what was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    changes: Vec<Change>,
    flows_judged: usize,
    connections_judged: usize,
    notes: Vec<String>,
}

impl Change {
    /// Each direction in which two answers differ. What one of them does not judge, does not.
    pub(super) fn between(flow: Option<u16>, before: &Answer, after: &Answer) -> Vec<Self> {
        let sides = [
            (Direction::Egress, &before.egress_reason, &after.egress_reason),
            (Direction::Ingress, &before.ingress_reason, &after.ingress_reason),
        ];
        let differ = sides.into_iter().filter(|(_, before, after)| {
            let verdicts = (before.verdict(), after.verdict());
            verdicts.0 != verdicts.1 && verdicts.0.is_some() && verdicts.1.is_some()
        });
        let change = |(direction, old, new): (Direction, &Reason, &Reason)| Self {
            kind: if flow.is_some() { "flow" } else { "new" },
            direction: direction.word(),
            from: before.from.clone(),
            to: before.to.clone(),
            traffic: vec![traffic(before.protocol, before.port)],
            source_port: flow,
            before: old.verdict(),
            after: new.verdict(),
            before_reason: old.clone(),
            after_reason: new.clone(),
        };
        differ.map(change).collect()
    }

    /// What new connections have in common that are told in one row.
    fn key(&self) -> impl Ord + use<> {
        (
            self.kind,
            self.source_port.map(|port| (port, self.traffic.clone())),
            (self.from.ip.clone(), self.to.ip.clone(), self.direction),
            (self.before_reason.text.clone(), self.after_reason.text.clone()),
        )
    }
}

impl Report {
    /// Puts changes of new connections together that differ in their ports only.
    pub(super) fn new(
        changes: Vec<Change>,
        flows_judged: usize,
        connections_judged: usize,
        notes: Vec<String>,
    ) -> Self {
        let mut rows: BTreeMap<_, Change> = BTreeMap::new();
        for mut change in changes {
            match rows.get_mut(&change.key()) {
                Some(row) => row.traffic.append(&mut change.traffic),
                None => {
                    rows.insert(change.key(), change);
                }
            }
        }
        debug_assert!(connections_judged <= CONNECTIONS_MAX, "what was bounded before");
        Self { changes: rows.into_values().collect(), flows_judged, connections_judged, notes }
    }

    /// How many verdicts would change.
    pub(super) fn changes_count(&self) -> usize {
        self.changes.iter().map(|change| change.traffic.len()).sum()
    }

    /// For people a table and what was looked at, for programs one object.
    ///
    /// # Errors
    ///
    /// Fails if the output does.
    pub(super) fn print(&self, printer: &mut Printer) -> Result<(), Failure> {
        if printer.is_json() {
            return printer.object(self);
        }
        if !self.changes.is_empty() {
            printer.list(&self.changes)?;
            printer.text("")?;
        }
        printer.text(&format!(
            "{} of {} connections in the flow table and {} new ones that were tried would change",
            self.changes.iter().filter(|change| change.kind == "flow").count(),
            self.flows_judged,
            self.changes_count_new(),
        ))?;
        printer.text(&format!("{} new connections were tried", self.connections_judged))?;
        self.notes.iter().try_for_each(|note| printer.text(&format!("note: {note}")))
    }

    fn changes_count_new(&self) -> usize {
        let new = self.changes.iter().filter(|change| change.kind == "new");
        new.map(|change| change.traffic.len()).sum()
    }
}

impl Row for Change {
    const COLUMNS: &'static [Column] = &[
        text("WHAT"),
        text("CHANGE"),
        text("DIRECTION"),
        text("FROM"),
        text("TO"),
        text("TRAFFIC"),
        text("BEFORE"),
        text("AFTER"),
    ];

    fn cells(&self) -> Vec<String> {
        let more = self.traffic.len().saturating_sub(SHOWN_PORTS_MAX);
        let mut shown = self.traffic.iter().take(SHOWN_PORTS_MAX).cloned().collect::<Vec<_>>();
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        let from = match self.source_port {
            Some(port) => format!("{} port {port}", self.from.describe()),
            None => self.from.describe(),
        };
        vec![
            self.kind.to_owned(),
            format!("{} to {}", word(self.before), word(self.after)),
            self.direction.to_owned(),
            from,
            self.to.describe(),
            shown.join(", "),
            self.before_reason.text.clone(),
            self.after_reason.text.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        documented::assert_documented,
        explain::{Cause, Question},
    };

    fn answer(port: u16, ingress: Cause) -> Answer {
        let question = json!({"from": {"ip": "10.0.0.1"}, "to": {"ip": "10.0.0.2"}, "port": port});
        let end = |ip: &str| EndView { pod: None, ip: ip.to_owned(), node: None };
        let reason = |cause| Reason {
            cause,
            node: None,
            policies: Vec::new(),
            rule: None,
            text: format!("{cause:?}"),
        };
        let question = Question::from_json(&question).unwrap();
        let (egress, ingress) = (reason(Cause::NotIsolated), reason(ingress));
        Answer::new(&question, [end("10.0.0.1"), end("10.0.0.2")], egress, ingress, Vec::new())
    }

    #[test]
    fn only_what_is_known_and_differs_is_a_change() {
        let between =
            |before, after| Change::between(None, &answer(80, before), &answer(80, after));
        assert!(between(Cause::Rule, Cause::NotIsolated).is_empty());
        assert!(between(Cause::NotHere, Cause::NoRule).is_empty());
        let changes = between(Cause::NotIsolated, Cause::NoRule);
        let [change] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((change.direction, change.after), ("ingress", Some(Verdict::Deny)));
    }

    #[test]
    fn new_connections_that_differ_in_ports_are_one_row_and_flows_are_not() {
        let change = |flow, port| {
            let (before, after) = (answer(port, Cause::NotIsolated), answer(port, Cause::NoRule));
            Change::between(flow, &before, &after)
        };
        let all = [change(None, 80), change(None, 81), change(Some(1), 80), change(Some(2), 80)];
        let report = Report::new(all.concat(), 2, 2, Vec::new());
        assert_eq!((report.changes.len(), report.changes_count()), (3, 4));
        assert_documented("policy diff", &report);
        assert_documented("policy diff changes", &report.changes[0]);
    }
}
