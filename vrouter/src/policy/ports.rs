//! Which rule lets a protocol and port pass: one table for each class of peers.

use std::collections::BTreeMap;

use super::{RuleIndex, object::PortRange};

/// Rules by protocol and port.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    /// The first rule that lets every protocol and port pass.
    every: Option<RuleIndex>,
    /// In order, and apart from each other.
    spans: Box<[Span]>,
}

/// Ports of one protocol, each as `protocol << 16 | port`, that one rule lets pass.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    last: u32,
    rule: RuleIndex,
}

impl PortTable {
    /// The table of these rules; where several let a port pass, the first of them counts.
    pub(super) fn new<'a>(rules: impl Iterator<Item = (RuleIndex, &'a [PortRange])>) -> Self {
        let mut every = None;
        let mut spans = BTreeMap::new();
        for (rule, ports) in rules {
            if ports.is_empty() && every.is_none() {
                every = Some(rule);
            }
            for range in ports {
                let key = |port| u32::from(range.protocol) << 16 | u32::from(port);
                add(&mut spans, key(range.first), key(range.last), rule);
            }
        }
        let spans = spans.into_iter().map(|(first, (last, rule))| Span { first, last, rule });
        Self { every, spans: spans.collect() }
    }

    /// The rule that lets a port of a protocol pass.
    pub(super) fn rule(&self, protocol: u8, port: Option<u16>) -> Option<RuleIndex> {
        let of_port = port.and_then(|port| {
            let key = u32::from(protocol) << 16 | u32::from(port);
            let after = self.spans.partition_point(|span| span.first <= key);
            let span = self.spans.get(after.checked_sub(1)?)?;
            (key <= span.last).then_some(span.rule)
        });
        match (of_port, self.every) {
            (Some(rule), Some(every)) => Some(rule.min(every)),
            (rule, every) => rule.or(every),
        }
    }
}

/// Adds what no span has yet of a range.
fn add(spans: &mut BTreeMap<u32, (u32, RuleIndex)>, first: u32, last: u32, rule: RuleIndex) {
    let mut next = first;
    while next <= last {
        if let Some((_, &(taken_to, _))) = spans.range(..=next).next_back()
            && taken_to >= next
        {
            next = taken_to + 1;
            continue;
        }
        let taken_from = spans.range(next..=last).next().map(|(&from, _)| from);
        let to = taken_from.map_or(last, |from| from - 1);
        spans.insert(next, (to, rule));
        next = to + 1;
    }
}
