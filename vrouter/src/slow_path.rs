//! Stage 4: what becomes of a packet whose flow is not known, or must be judged again.
//!
//! The order is fixed: *service* (destination NAT) → **egress policy** of the source → **route** →
//! **ingress policy** of the destination → *masquerade*. The engine has no services and no
//! masquerade yet; policy is judged on the addresses that services will have translated, as
//! [`crate::judge`] says.
//!
//! Both directions of a connection are decided at once, and on the original direction's addresses,
//! whichever direction the packet is of: so a reply cannot keep a connection alive that would not
//! be let in today.

#![warn(clippy::indexing_slicing)]

use std::net::IpAddr;

use encap::{icmp_error::ErrorCause, ip::IpProtocol};
use flowtable::{
    Direction, FlowHash, FlowKey, FlowRef, InsertOutcome, NewConnection, Revalidation, ScopeId,
    Scopes, is_newer,
};

use crate::{
    config::Role,
    drops::DropReason,
    fib::FibMatch,
    flows::FlowAction,
    judge::{Connection, Verdict},
    local::is_routable,
    next_hop::{NextHop, NextHopIndex},
    packet::Packet,
    parse::{Headers, Message, Refusal},
    pipeline::Pass,
    scope::{PolicyScope, RouteScope},
    snapshot::{PortEntry, VrfIndex},
    trace::{Denial, Detail},
};

/// Where a direction of a connection goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) next_hop: NextHopIndex,
    pub(crate) generation: u16,
    /// It is out of a guest port.
    pub(crate) is_to_guest: bool,
}

impl Way {
    /// The guest port that it leads to.
    fn guest(self) -> Option<(NextHopIndex, u16)> {
        self.is_to_guest.then_some((self.next_hop, self.generation))
    }
}

/// Both directions of a connection, decided.
struct Decision {
    forward: Way,
    /// `None` while there is no route back; packets of that direction ask again.
    reply: Option<Way>,
    /// Whether the original source, and the original destination, are addresses of this node's own.
    is_local: [bool; 2],
    /// What the decision depends on: the routes of both directions, or that there is none, and the
    /// policies of the guest ports at both ends.
    scopes: Scopes,
}

/// Why there is no decision.
enum Undecided {
    /// There is no way to the destination.
    NoWay(Refusal),
    /// Policy denies the connection; and what that depends on.
    Denied(Refusal, Scopes),
}

impl Decision {
    fn actions(&self, ingress: crate::port::PortRef) -> [FlowAction; 2] {
        let [forward_is_local, reply_is_local] = self.is_local;
        let forward = FlowAction::new(Some(&self.forward), ingress, forward_is_local);
        [forward, FlowAction::new(self.reply.as_ref(), ingress, reply_is_local)]
    }

    /// Whether packets of a direction come from an address of this node's own.
    fn has_local_source(&self, direction: Direction) -> bool {
        let [forward, reply] = self.is_local;
        match direction {
            Direction::Forward => forward,
            Direction::Reply => reply,
        }
    }

    fn way(&self, direction: Direction) -> Option<Way> {
        match direction {
            Direction::Forward => Some(self.forward),
            Direction::Reply => self.reply,
        }
    }
}

impl Pass<'_> {
    /// The first packet of a connection.
    #[cold]
    pub(crate) fn open(&mut self, packet: Packet, headers: &Headers, hash: FlowHash) {
        match self.try_open(&packet, headers, hash) {
            Ok(Opened::Flow(flow)) => self.follow(packet, headers, hash, flow),
            Ok(Opened::Outdated(flow)) => self.judge_again(packet, headers, hash, flow),
            Ok(Opened::Without(way)) => self.send_along(packet, headers, hash, way),
            Err(refusal) => self.refuse_routing(packet, headers, refusal),
        }
    }

    /// A connection that ended between its lookup and now: opened once more, and then carried out
    /// without a record, so that no packet goes round. What opens none has lost the one that it
    /// belonged to.
    #[cold]
    pub(crate) fn reopen(&mut self, packet: Packet, headers: &Headers, hash: FlowHash) {
        match headers.message {
            Message::LaterFragment => return self.drop_stray_fragment(packet, headers),
            Message::IcmpError => {
                return self.drop_packet(packet, DropReason::IcmpUnrelated, headers.flow_detail());
            }
            _ => {}
        }
        let opened = self.try_open(&packet, headers, hash);
        if let Ok(Opened::Flow(flow) | Opened::Outdated(flow)) = opened {
            // The packet is the first of the new connection.
            let _ = self.worker.record(flow, &headers.facts(), self.ticks);
            self.note_fragment(headers, flow);
        }
        match opened {
            Err(refusal) => self.refuse_routing(packet, headers, refusal),
            Ok(_) => match self.decide_one(headers, hash) {
                Ok(way) => self.send_along(packet, headers, hash, way),
                Err(refusal) => self.refuse_routing(packet, headers, refusal),
            },
        }
    }

    fn try_open(
        &mut self,
        packet: &Packet,
        headers: &Headers,
        hash: FlowHash,
    ) -> Result<Opened, Refusal> {
        let forward = headers.key();
        let reply = forward.reversed();
        let reply_hash = self.flows.hash(&reply);
        let decision = self
            .decide_both(&forward, hash, &reply, reply_hash)
            .map_err(|(Undecided::NoWay(refusal) | Undecided::Denied(refusal, _))| refusal)?;
        self.check_fabric_source(headers, decision.has_local_source(Direction::Forward))?;
        if self.is_discard(decision.forward) || headers.message == Message::QueryAnswer {
            // Nothing to remember: the route says it to each packet, and an answer opens nothing.
            return Ok(Opened::Without(decision.forward));
        }
        let outcome = self.worker.insert_pair(&NewConnection {
            forward,
            reply,
            forward_hash: hash,
            reply_hash,
            actions: decision.actions(packet.ingress),
            version: self.config_view().version,
            scopes: decision.scopes,
            facts: &headers.facts(),
            now: self.ticks,
        });
        match outcome {
            InsertOutcome::Inserted(flow) | InsertOutcome::Adopted(flow) => Ok(Opened::Flow(flow)),
            InsertOutcome::Outdated(flow) => Ok(Opened::Outdated(flow)),
            InsertOutcome::Contended => Ok(Opened::Without(decision.forward)),
            InsertOutcome::Refused(reason) => {
                Err(Refusal::new(DropReason::FlowInvalid, Detail::Invalid { reason }))
            }
            InsertOutcome::Full => {
                Err(Refusal::new(DropReason::FlowTableFull, headers.flow_detail()))
            }
            InsertOutcome::ReplyCollision => {
                Err(Refusal::new(DropReason::FlowReplyCollision, headers.flow_detail()))
            }
        }
    }

    /// What comes out of a tunnel cannot come from an address of this node's own: a pod's, the
    /// node's, the gateway's. Every packet of a flow is held to it, the first, later ones and stale
    /// ones, in both directions; `has_local_source` is the direction's as it was decided last.
    ///
    /// It is the whole check. Other sources may come out of any tunnel: where a route leads through
    /// a port, such as the node's own stack for everything else, the source is not that port's; and
    /// which tunnel a packet came out of is told by an outer source address that anybody on the
    /// underlay can write, and that a node with several addresses may choose another one for than
    /// we send to.
    pub(crate) fn check_fabric_source(
        &self,
        headers: &Headers,
        has_local_source: bool,
    ) -> Result<(), Refusal> {
        if has_local_source && self.ingress.role == Role::Uplink {
            let detail = Detail::Source { source: headers.source };
            return Err(Refusal::new(DropReason::RpfSpoofedSource, detail));
        }
        Ok(())
    }

    /// The same for a packet that gets an answer without a flow: whoever its source names would
    /// get it.
    pub(crate) fn check_answered_source(&self, headers: &Headers) -> Result<(), Refusal> {
        if self.ingress.role != Role::Uplink {
            return Ok(());
        }
        let (vrf, source) = (headers.vrf, headers.source);
        self.check_fabric_source(headers, self.is_local(vrf, source, self.find_route(vrf, source)))
    }

    /// Whether `address`, which `found` is the route of, is this node's own.
    fn is_local(&self, vrf: VrfIndex, address: IpAddr, found: Option<FibMatch>) -> bool {
        self.snapshot.owner(address, found).is_some() || self.is_gateway_of(vrf, address)
    }

    fn is_gateway_of(&self, vrf: VrfIndex, address: IpAddr) -> bool {
        self.snapshot.vrf(vrf).is_some_and(|vrf| vrf.is_gateway(address))
    }

    /// A packet of a flow that depends on something that changed since: the connection gets new
    /// actions, or ends.
    pub(crate) fn judge_again(
        &mut self,
        packet: Packet,
        headers: &Headers,
        hash: FlowHash,
        flow: FlowRef,
    ) {
        self.judge_flow(packet, headers, hash, flow, false);
    }

    /// The same of a flow that has no way; its packet may be recorded already.
    #[cold]
    pub(crate) fn judge_flow(
        &mut self,
        packet: Packet,
        headers: &Headers,
        hash: FlowHash,
        flow: FlowRef,
        is_recorded: bool,
    ) {
        let keys = (self.worker.original_key(flow), self.worker.reply_key(flow));
        let (Some(original), Some(reply)) = keys else {
            return self.reopen(packet, headers, hash);
        };
        let hashes = (self.flows.hash(&original), self.flows.hash(&reply));
        if self.is_of_other_pods(flow, &original, hashes) {
            if let Err(refusal) = self.check_answered_source(headers) {
                return self.refuse(packet, refusal);
            }
            let _ = self.worker.remove(flow);
            return self.reopen(packet, headers, hash);
        }
        let decision = match self.decide_both(&original, hashes.0, &reply, hashes.1) {
            Ok(decision) => decision,
            Err(Undecided::NoWay(refusal)) => {
                let _ = self.worker.remove(flow);
                return self.refuse_routing(packet, headers, refusal);
            }
            Err(Undecided::Denied(refusal, scopes)) => {
                // A flow that has no way is one that was closed before, unless it is stale.
                if !is_recorded {
                    self.close(flow, scopes);
                }
                return self.refuse(packet, refusal);
            }
        };
        let has_local_source = decision.has_local_source(flow.direction());
        if let Err(refusal) = self.check_fabric_source(headers, has_local_source) {
            // The connection is somebody else's: it waits for a packet of its own.
            return self.refuse(packet, refusal);
        }
        if self.is_discard(decision.forward) {
            let _ = self.worker.remove(flow);
            return self.send_along(packet, headers, hash, decision.forward);
        }
        let ingress =
            self.worker.actions(flow).map_or(packet.ingress, |[forward, _]| forward.ingress());
        let version = self.config_view().version;
        let actions = decision.actions(ingress);
        // A newer decision of another worker stays in force; this packet goes by the configuration
        // that is held here.
        let flow = match self.worker.revalidate(flow, &actions, version, decision.scopes) {
            Revalidation::Revalidated(flow) | Revalidation::Newer(flow) => flow,
            Revalidation::Gone | Revalidation::Deferred => flow,
        };
        if !is_recorded {
            let recorded = self.worker.record(flow, &headers.facts(), self.ticks);
            let verdict = recorded.map(|recorded| recorded.verdict);
            if let Some(flowtable::Verdict::Invalid(reason)) = verdict {
                let detail = Detail::Invalid { reason };
                return self.drop_packet(packet, DropReason::FlowInvalid, detail);
            }
            self.note_fragment(headers, flow);
        }
        if let Some(way) = decision.way(flow.direction()) {
            self.send_along(packet, headers, hash, way);
        } else {
            let refusal = self.without_route(headers.vrf, headers.destination);
            self.refuse_routing(packet, headers, refusal);
        }
    }

    /// Whether an end of a connection was at another guest port, or is at one now and was not: then
    /// who has its address now has no part in it, and may not get packets as answers of what others
    /// asked. A port keeps its slot and generation with another backend, and other policies.
    ///
    /// An end that is behind a tunnel, before and now, may have moved: its own node knows who it is.
    fn is_of_other_pods(
        &mut self,
        flow: FlowRef,
        original: &FlowKey,
        hashes: (FlowHash, FlowHash),
    ) -> bool {
        let Some([forward, reply]) = self.worker.actions(flow) else { return false };
        let vrf = VrfIndex(original.vrf());
        let guest = |address, hash| {
            let way = self.decide(vrf, address, self.find_route(vrf, address), hash).ok()?;
            way.guest()
        };
        let guests = [guest(original.destination(), hashes.0), guest(original.source(), hashes.1)];
        if [forward.guest(), reply.guest()] == guests {
            return false;
        }
        // Another worker may know already what is in force after what is held here.
        let version = self.config_view().version;
        self.worker.version(flow).is_some_and(|other| !is_newer(other, version))
    }

    /// Policy does not allow a connection any more. Its record stays for its time: if it went, an
    /// answer that is still sent would count as a connection of the answering side, and bring the
    /// other side's packets through as its answers.
    fn close(&mut self, flow: FlowRef, scopes: Scopes) {
        let version = self.config_view().version;
        if let Some(actions) = self.worker.actions(flow) {
            let actions = actions.map(FlowAction::denied);
            // If it cannot be changed now, its next packet finds it as stale as this one did.
            let _ = self.worker.revalidate(flow, &actions, version, scopes);
        }
    }

    fn decide_both(
        &self,
        forward: &FlowKey,
        forward_hash: FlowHash,
        reply: &FlowKey,
        reply_hash: FlowHash,
    ) -> Result<Decision, Undecided> {
        let snapshot = self.snapshot;
        let vrf = VrfIndex(forward.vrf());
        let (source, destination) = (reply.destination(), forward.destination());
        let (there, back) = (self.find_route(vrf, destination), self.find_route(vrf, source));
        let from = snapshot.owner(source, back);
        let to = snapshot.owner(destination, there);
        let connection = Connection {
            vrf,
            source,
            destination,
            protocol: forward.protocol(),
            destination_port: forward.destination_port(),
        };
        let of_route = |address, found| RouteScope::of_lookup(vrf, address, found).id();
        let routes = [of_route(destination, there), of_route(source, back)];
        let scopes = |through| {
            let [there, back] = routes;
            Scopes([there, back, policy_scope(from), policy_scope(through)])
        };
        let verdict = snapshot.judge_egress(&connection, from, to);
        admit(&verdict, &connection, DropReason::PolicyEgressDenied)
            .map_err(|refusal| Undecided::Denied(refusal, scopes(to)))?;
        let forward =
            self.decide(vrf, destination, there, forward_hash).map_err(Undecided::NoWay)?;
        let through = snapshot.port_through(forward.next_hop);
        let scopes = scopes(through);
        let verdict = snapshot.judge_ingress(&connection, from, through);
        admit(&verdict, &connection, DropReason::PolicyIngressDenied)
            .map_err(|refusal| Undecided::Denied(refusal, scopes))?;
        let reply = self.decide(vrf, source, back, reply_hash).ok();
        let is_local = [
            from.is_some() || self.is_gateway_of(vrf, source),
            to.is_some() || self.is_gateway_of(vrf, destination),
        ];
        Ok(Decision { forward, reply, is_local, scopes })
    }

    /// Decides where a packet of no flow goes.
    fn decide_one(&self, headers: &Headers, hash: FlowHash) -> Result<Way, Refusal> {
        let found = self.find_route(headers.vrf, headers.destination);
        self.decide(headers.vrf, headers.destination, found, hash)
    }

    /// Decides where packets to `destination`, which `found` is the route of, go.
    fn decide(
        &self,
        vrf: VrfIndex,
        destination: IpAddr,
        found: Option<FibMatch>,
        flow_hash: FlowHash,
    ) -> Result<Way, Refusal> {
        let found = found
            .filter(|_| is_routable(destination))
            .ok_or_else(|| self.without_route(vrf, destination))?;
        let next_hop = self.snapshot.pick(found.group, flow_hash.0);
        let slot = next_hop.and_then(|index| Some((index, self.snapshot.next_hops.slot(index)?)));
        match slot {
            Some((next_hop, slot)) => {
                let port = self.snapshot.port_through(next_hop);
                let is_to_guest = port.is_some_and(|port| port.role == Role::Guest);
                Ok(Way { next_hop, generation: slot.generation, is_to_guest })
            }
            None => Err(Refusal::new(DropReason::RouteNone, Detail::Destination { destination })),
        }
    }

    fn find_route(&self, vrf: VrfIndex, address: IpAddr) -> Option<FibMatch> {
        self.snapshot.vrf(vrf)?.fib.lookup(address)
    }

    fn without_route(&self, vrf: VrfIndex, destination: IpAddr) -> Refusal {
        let vrf = self.snapshot.vrf(vrf).map_or(0, |vrf| vrf.id);
        Refusal::new(DropReason::RouteNone, Detail::Route { vrf, destination })
    }

    fn is_discard(&self, way: Way) -> bool {
        let hop = self.snapshot.next_hop(way.next_hop, way.generation);
        matches!(hop, Some(NextHop::Unreachable | NextHop::Blackhole))
    }

    /// Sends a packet by a decision of this pass.
    fn send_along(&mut self, packet: Packet, headers: &Headers, hash: FlowHash, way: Way) {
        let snapshot = self.snapshot;
        if let Some(hop) = snapshot.next_hop(way.next_hop, way.generation) {
            self.forward(packet, headers, way.next_hop, hop, hash.0);
        } else {
            let detail = Detail::NextHop { next_hop: way.next_hop };
            self.drop_packet(packet, DropReason::RouteNone, detail);
        }
    }

    /// Drops a packet for what the slow path found; without a route its sender is told (RFC 1812
    /// section 5.2.7.1).
    fn refuse_routing(&mut self, packet: Packet, headers: &Headers, refusal: Refusal) {
        if refusal.reason == DropReason::RouteNone {
            if let Err(refusal) = self.check_answered_source(headers) {
                return self.refuse(packet, refusal);
            }
            self.send_error(&packet, headers, ErrorCause::NoRoute);
        }
        self.refuse(packet, refusal);
    }
}

/// What a guest port's policies say today may change: also if there are none.
fn policy_scope(port: Option<&PortEntry>) -> ScopeId {
    let guest = port.filter(|port| port.role == Role::Guest);
    guest.map_or(ScopeId::NONE, |port| PolicyScope(port.next_hop).id())
}

fn admit(
    verdict: &Verdict<'_>,
    connection: &Connection,
    reason: DropReason,
) -> Result<(), Refusal> {
    let Verdict::Denied { port, set } = verdict else { return Ok(()) };
    let is_ingress = reason == DropReason::PolicyIngressDenied;
    let denial = Denial {
        port: port.port,
        set: set.map_or(0, |set| set.object().id),
        peer: if is_ingress { connection.source } else { connection.destination },
        is_ingress,
        protocol: IpProtocol(connection.protocol),
        destination_port: connection.port(),
    };
    Err(Refusal::new(reason, Detail::Policy(denial)))
}

/// What came of opening a connection.
#[derive(Clone, Copy)]
enum Opened {
    /// A connection, new or another worker's.
    Flow(FlowRef),
    /// One that was there already and is stale.
    Outdated(FlowRef),
    /// None is needed, or none could be had right now: this packet goes that way.
    Without(Way),
}
