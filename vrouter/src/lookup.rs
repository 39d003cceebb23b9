//! Stage 3: the flows of a burst, and what they say about each packet.
//!
//! All keys are hashed and looked up at once. Then packets are acted upon in order, so that the
//! first packet of a flow opens it for the ones behind it, and the first fragment of a datagram for
//! the later ones.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use flowtable::{ConfigView, Direction, FlowHash, FlowKey, FlowRef, Lookup, Verdict};

use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    config::Role,
    drops::DropReason,
    packet::Packet,
    parse::{Headers, Message, Refusal},
    pipeline::{Parsed, Pass, Scratch},
    snapshot::VrfIndex,
    stats::Stage,
    trace::Detail,
};

impl<'a> Pass<'a> {
    /// Empties `burst` and `scratch`.
    pub(crate) fn look_up(&mut self, burst: &mut Burst, scratch: &mut Scratch) {
        let Scratch { parsed, others, keys, hashes } = scratch;
        let mut found = [Lookup::Miss; BURST_PACKETS_MAX];
        let config = self.config_view();
        if self.worker.lookup_prefetched_burst(keys, hashes, config, &mut found) > 0 {
            self.prefetch_replies(keys, &found);
        }
        self.stats.end_stage(Stage::LookUp, burst.len() as u64);
        let mut others = others.drain(..);
        let mut flows = keys.iter().zip(hashes.iter().zip(found.iter()));
        for (packet, parsed) in burst.iter_mut().zip(parsed.iter()) {
            if let Parsed::Gone = parsed {
                continue;
            }
            let Some((key, (&hash, found))) = flows.next() else { break };
            if let (Parsed::Plain(plain), Lookup::Hit(flow)) = (parsed, found)
                && self.follow_plain(packet, *plain, hash, flow)
            {
                continue;
            }
            match parsed {
                Parsed::Plain(_) => self.leave_fast_path(packet, key, hash, found),
                Parsed::Other | Parsed::Gone => {
                    if let Some((packet, headers)) = others.next() {
                        self.act_upon(packet, &headers, hash, *found);
                    }
                }
            }
        }
        // All were taken.
        burst.clear();
    }

    /// Asks for where the reply keys of connections will lie that are about to be opened.
    fn prefetch_replies(&self, keys: &[FlowKey], found: &[Lookup]) {
        for (key, found) in keys.iter().zip(found) {
            if *found == Lookup::Miss {
                self.worker.prefetch(self.flows.hash(&key.reversed()));
            }
        }
    }

    /// What the lookup of a packet's flow led to.
    fn act_upon(&mut self, packet: Packet, headers: &Headers, hash: FlowHash, found: Lookup) {
        match found {
            _ if headers.message == Message::LaterFragment => {
                self.follow_fragment(packet, headers);
            }
            Lookup::Hit(flow) => self.follow(packet, headers, hash, flow),
            Lookup::Stale(flow) => self.judge_again(packet, headers, hash, flow),
            Lookup::Miss => self.open(packet, headers, hash),
        }
    }

    /// A plain packet that the fast path does not carry: with all its headers, as any other.
    #[cold]
    #[inline(never)]
    fn leave_fast_path(
        &mut self,
        packet: &mut Packet,
        key: &FlowKey,
        hash: FlowHash,
        found: &Lookup,
    ) {
        let packet = packet.take();
        match self.headers_of_plain(&packet, VrfIndex(key.vrf())) {
            Ok(headers) => self.act_upon(packet, &headers, hash, *found),
            Err(refusal) => self.refuse(packet, refusal),
        }
    }

    /// What lookups are judged by: the snapshot's version, and the scopes that were touched.
    #[expect(clippy::cast_possible_truncation, reason = "the table compares versions that wrap")]
    pub(crate) fn config_view(&self) -> ConfigView<'a> {
        ConfigView { version: self.snapshot.version as u32, scopes: self.flows.scopes() }
    }

    /// Records a packet of a known flow and sends it where the flow's action says.
    pub(crate) fn follow(
        &mut self,
        packet: Packet,
        headers: &Headers,
        hash: FlowHash,
        flow: FlowRef,
    ) {
        if let Err(refusal) = self.check_flow_source(headers, flow) {
            return self.refuse(packet, refusal);
        }
        let now = self.ticks;
        let Some(recorded) = self.worker.record(flow, &headers.facts(), now) else {
            // It ended since the lookup, or is about to start over.
            return self.reopen(packet, headers, hash);
        };
        if let Verdict::Invalid(reason) = recorded.verdict {
            return self.drop_packet(packet, DropReason::FlowInvalid, Detail::Invalid { reason });
        }
        self.note_fragment(headers, flow);
        let snapshot = self.snapshot;
        let way = recorded.action.next_hop();
        match way
            .and_then(|(index, generation)| Some((index, snapshot.next_hop(index, generation)?)))
        {
            Some((index, hop)) => self.forward(packet, headers, index, hop, hash.0),
            // There was no way, or its slot has another user: the action is of another
            // configuration.
            None => self.judge_flow(packet, headers, hash, flow, true),
        }
    }

    /// Before a packet of the fabric is recorded: it may not close, or refresh, a connection that is
    /// none of its sender's.
    fn check_flow_source(&mut self, headers: &Headers, flow: FlowRef) -> Result<(), Refusal> {
        if self.ingress.role != Role::Uplink {
            return Ok(());
        }
        let action = self.worker.action(flow);
        self.check_fabric_source(headers, action.is_some_and(|action| action.has_local_source()))
    }

    /// Later fragments of a datagram follow its first one's flow.
    pub(crate) fn note_fragment(&mut self, headers: &Headers, flow: FlowRef) {
        if let Some(fragment) = headers.fragment
            && fragment.is_first()
            && let Some(key) = headers.fragment_key()
        {
            // A table without room means that the later ones are unknown.
            let _ = self.worker.fragment_insert(&key, flow, self.ticks);
        }
    }

    /// A fragment without ports: its flow is that of the datagram's first fragment.
    #[cold]
    fn follow_fragment(&mut self, packet: Packet, headers: &Headers) {
        let now = self.ticks;
        let first = headers.fragment_key().and_then(|key| self.worker.fragment_lookup(&key, now));
        let key = first.and_then(|flow| match flow.direction() {
            Direction::Forward => self.worker.original_key(flow),
            Direction::Reply => self.worker.reply_key(flow),
        });
        match key.map(|key| self.look_up_one(&key)) {
            Some((hash, Lookup::Hit(flow))) => self.follow(packet, headers, hash, flow),
            Some((hash, Lookup::Stale(flow))) => self.judge_again(packet, headers, hash, flow),
            Some((_, Lookup::Miss)) | None => self.drop_stray_fragment(packet, headers),
        }
    }

    /// A later fragment whose first one's flow is not known, or not any more.
    #[cold]
    pub(crate) fn drop_stray_fragment(&mut self, packet: Packet, headers: &Headers) {
        let fragment = headers.fragment;
        let detail = Detail::Fragment {
            source: headers.source,
            destination: headers.destination,
            identification: fragment.map_or(0, |fragment| fragment.identification),
            offset_bytes: fragment.map_or(0, |fragment| fragment.offset_bytes),
        };
        self.drop_packet(packet, DropReason::FragmentUnknown, detail);
    }

    /// Looks one key up, apart from the burst's.
    pub(crate) fn look_up_one(&mut self, key: &FlowKey) -> (FlowHash, Lookup) {
        let hash = self.flows.hash(key);
        let mut found = [Lookup::Miss];
        let config = self.config_view();
        self.worker.lookup_burst(&[*key], &[hash], config, &mut found);
        let [found] = found;
        (hash, found)
    }
}
