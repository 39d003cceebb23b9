//! Packets that were dropped lately.

use std::collections::HashMap;

use control_api::engine::{DropExample, ListDropExamplesRequest};
use vrouter::{
    clock::Now,
    drops::DropReason,
    port::PortRef,
    trace::{self, DropExamples},
};

use super::{Node, answers::octets, queries::QueryError};

impl Node {
    /// Dropped packets of all workers that match, the newest first.
    ///
    /// # Errors
    ///
    /// Fails if there is no such reason.
    pub(crate) fn drop_examples(
        &mut self,
        request: &ListDropExamplesRequest,
    ) -> Result<Vec<DropExample>, QueryError> {
        let reason = match request.reason.as_str() {
            "" => None,
            label => Some(find_reason(label)?),
        };
        let config = self.engine.config();
        let names: HashMap<PortRef, &str> =
            config.ports().map(|(port, object)| (port, object.name.as_ref())).collect();
        let port_of =
            |example: &trace::DropExample| names.get(&example.ingress).copied().unwrap_or_default();
        let is_asked_for = |example: &trace::DropExample| {
            reason.is_none_or(|reason| example.reason == reason)
                && (request.port.is_empty() || request.port == port_of(example))
        };
        let of_all = (0..)
            .zip(&self.examples)
            .flat_map(|(worker, examples)| examples.iter().map(move |example| (worker, example)));
        let mut found: Vec<_> = of_all.filter(|(_, example)| is_asked_for(example)).collect();
        found.sort_by_key(|(_, example)| std::cmp::Reverse(example.now));
        if let Ok(limit @ 1..) = usize::try_from(request.limit) {
            found.truncate(limit);
        }
        let now = self.engine.now();
        let message = |(worker, example): (u32, &trace::DropExample)| {
            let detail = config.describe(&example.detail);
            let policies = match &example.detail {
                trace::Detail::Policy(denial) => config.policies_of(denial),
                _ => &[],
            };
            let policies = policies.iter().map(ToString::to_string).collect();
            DropExample { detail, policies, ..message(now, worker, example, port_of(example)) }
        };
        Ok(found.into_iter().map(message).collect())
    }

    /// What was known of the last drop that was kept, by its reason and the port that the packet
    /// came in on.
    pub(super) fn last_details(&self) -> HashMap<(DropReason, PortRef), String> {
        let mut last: HashMap<_, &trace::DropExample> = HashMap::new();
        for example in self.examples.iter().flat_map(DropExamples::iter) {
            let newest = last.entry((example.reason, example.ingress)).or_insert(example);
            if newest.now <= example.now {
                *newest = example;
            }
        }
        let config = self.engine.config();
        last.into_iter().map(|(key, it)| (key, config.describe(&it.detail))).collect()
    }
}

fn find_reason(label: &str) -> Result<DropReason, QueryError> {
    let reason = DropReason::ALL.iter().find(|reason| reason.label() == label);
    reason.copied().ok_or_else(|| QueryError::NoSuchReason { reason: label.to_owned() })
}

fn message(now: Now, worker: u32, example: &trace::DropExample, port: &str) -> DropExample {
    let age = now.nanoseconds.saturating_sub(example.now.nanoseconds);
    let flow = example.flow();
    let (source_port, destination_port) = flow.and_then(|flow| flow.ports).unwrap_or_default();
    DropExample {
        age_ms: age / 1_000_000,
        worker,
        reason: example.reason.label().to_owned(),
        port: port.to_owned(),
        protocol: flow.map_or(0, |flow| u32::from(flow.protocol.0)),
        source: flow.map(|flow| octets(flow.source)).unwrap_or_default(),
        destination: flow.map(|flow| octets(flow.destination)).unwrap_or_default(),
        source_port: u32::from(source_port),
        destination_port: u32::from(destination_port),
        packet_bytes: example.packet_bytes,
        head: example.head.to_vec(),
        ..DropExample::default()
    }
}
