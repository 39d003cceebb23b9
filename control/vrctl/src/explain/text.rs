//! An answer for people: what happens, and where to change it.

use std::fmt::Write as _;

use control::names::NodeName;

use super::{
    answer::{Answer, Cause, Reason, word},
    direction::Direction,
    offline::NearMiss,
};

/// Rules that are gone through one by one: a screenful. The object has them all.
const NEAR_MISSES_MAX: usize = 12;

/// Lays an answer out. `near_misses` tells the rules that might have allowed a direction.
pub(super) fn describe(
    answer: &Answer,
    node: Option<&NodeName>,
    mut near_misses: impl FnMut(Direction) -> Vec<NearMiss>,
) -> String {
    let (from, to) = (answer.from.describe(), answer.to.describe());
    let mut text = format!("{}: {from} to {to}, {}\n\n", word(answer.verdict), answer.traffic());
    for (direction, reason) in
        [(Direction::Egress, &answer.egress_reason), (Direction::Ingress, &answer.ingress_reason)]
    {
        let judged = judged_elsewhere(reason, node);
        // A text takes whatever is written.
        let _ = writeln!(
            text,
            "{:<8} {:<5}  {}{judged}",
            direction.word(),
            word(reason.verdict()),
            reason.text
        );
        if reason.cause == Cause::Rule && reason.policies.len() > 1 {
            let _ = writeln!(text, "{:16}isolated by {}", "", reason.policies.join(", "));
        }
        if reason.cause == Cause::NoRule {
            write_near_misses(&mut text, &near_misses(direction));
        }
    }
    for note in &answer.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    text
}

fn judged_elsewhere(reason: &Reason, node: Option<&NodeName>) -> String {
    match (&reason.node, node) {
        (Some(judge), Some(node)) if judge != node.as_str() => {
            format!(" (node {judge} judges this, not {node})")
        }
        _ => String::new(),
    }
}

fn write_near_misses(text: &mut String, misses: &[NearMiss]) {
    if misses.is_empty() {
        let _ = writeln!(text, "{:16}there is no rule at all, so nothing is allowed", "");
    }
    for miss in misses.iter().take(NEAR_MISSES_MAX) {
        let _ = writeln!(text, "{:16}{}: {}", "", miss.rule, miss.why);
    }
    let more = misses.len().saturating_sub(NEAR_MISSES_MAX);
    if more > 0 {
        let _ = writeln!(text, "{:16}and {more} more rules", "");
    }
}
