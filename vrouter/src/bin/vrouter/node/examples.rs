//! Packets that were dropped lately.

use std::collections::HashMap;

use control_api::engine::{DropExample, ListDropExamplesRequest};
use vrouter::{clock::Now, drops::DropReason, port::PortRef, trace};

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
            let detail = match example.detail {
                trace::Detail::NextHop { next_hop } => {
                    config.next_hop_name(next_hop).unwrap_or_default().to_owned()
                }
                detail => detail.to_string(),
            };
            message(now, worker, example, port_of(example), detail)
        };
        Ok(found.into_iter().map(message).collect())
    }
}

fn find_reason(label: &str) -> Result<DropReason, QueryError> {
    let reason = DropReason::ALL.iter().find(|reason| reason.label() == label);
    reason.copied().ok_or_else(|| QueryError::NoSuchReason { reason: label.to_owned() })
}

fn message(
    now: Now,
    worker: u32,
    example: &trace::DropExample,
    port: &str,
    detail: String,
) -> DropExample {
    let age = now.nanoseconds.saturating_sub(example.now.nanoseconds);
    let flow = example.flow();
    let (source_port, destination_port) = flow.and_then(|flow| flow.ports).unwrap_or_default();
    DropExample {
        age_ms: age / 1_000_000,
        worker,
        reason: example.reason.label().to_owned(),
        port: port.to_owned(),
        detail,
        protocol: flow.map_or(0, |flow| u32::from(flow.protocol.0)),
        source: flow.map(|flow| octets(flow.source)).unwrap_or_default(),
        destination: flow.map(|flow| octets(flow.destination)).unwrap_or_default(),
        source_port: u32::from(source_port),
        destination_port: u32::from(destination_port),
        packet_bytes: example.packet_bytes,
        head: example.head.to_vec(),
    }
}
