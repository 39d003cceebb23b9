//! Connections as operators see them.

use crate::{
    connection::{FlowCounters, Life},
    epoch::OPERATOR,
    facts::Ticks,
    key::FlowKey,
    scopes::Scopes,
    store::Store,
    table::{Action, from_words},
    tracking::{self, ConnectionState},
};

/// Connections that are looked at between two quiescent points: enough to spread the fence, too few
/// to hold up reuse.
const CONNECTIONS_PER_STEP: u32 = 64;

/// A copy of what the table knows about a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<A> {
    /// The key of the original direction.
    pub forward: FlowKey,
    /// The key of the answer; differs from the reversed forward key under NAT.
    pub reply: FlowKey,
    /// The connection's state.
    pub state: ConnectionState,
    /// What went forward.
    pub forward_counters: FlowCounters,
    /// What came back.
    pub reply_counters: FlowCounters,
    /// Ticks since a packet was seen in either direction.
    pub idle: Ticks,
    /// Ticks until it expires if nothing more comes.
    pub expires_in: Ticks,
    /// The configuration version that its actions were compiled or confirmed under: the older of
    /// both directions'.
    pub version: u32,
    /// The scopes its actions depend on.
    pub scopes: Scopes,
    /// The actions: forward, reply.
    pub actions: [A; 2],
}

impl ConnectionView<[u64; 4]> {
    /// The same with typed actions.
    pub(crate) fn with_actions<A: Action>(self) -> ConnectionView<A> {
        ConnectionView {
            forward: self.forward,
            reply: self.reply,
            state: self.state,
            forward_counters: self.forward_counters,
            reply_counters: self.reply_counters,
            idle: self.idle,
            expires_in: self.expires_in,
            version: self.version,
            scopes: self.scopes,
            actions: self.actions.map(from_words),
        }
    }
}

/// Shows every connection to `visitor`. The caller is the only operator.
pub(crate) fn for_each(
    store: &Store,
    now: Ticks,
    mut visitor: impl FnMut(ConnectionView<[u64; 4]>),
) {
    let mut views = Vec::with_capacity(CONNECTIONS_PER_STEP as usize);
    let mut first = 0;
    while first < store.layout.connections {
        let end = first.saturating_add(CONNECTIONS_PER_STEP).min(store.layout.connections);
        // Online only while copying: what the visitor does holds nobody up.
        store.epochs.quiesce(OPERATOR);
        views.extend((first..end).filter_map(|connection| view(store, connection, now)));
        store.epochs.offline(OPERATOR);
        views.drain(..).for_each(&mut visitor);
        first = end;
    }
}

fn view(store: &Store, connection: u32, now: Ticks) -> Option<ConnectionView<[u64; 4]>> {
    let life: Life = store.connections.at(connection)?.life();
    if !life.is_alive() {
        return None;
    }
    let [forward, reply] = store.both_entries(life)?;
    let sides = store.both_sides(connection)?;
    let key = forward.key();
    let idle = tracking::idle(key.protocol(), sides, &store.tracking.timeouts, now);
    let versions = [forward.stamp().version, reply.stamp().version];
    let [a, b] = versions;
    Some(ConnectionView {
        forward: key,
        reply: reply.key(),
        state: idle.state,
        forward_counters: sides[0].counters(),
        reply_counters: sides[1].counters(),
        idle: idle.since,
        expires_in: idle.limit.saturating_sub(idle.since),
        version: if crate::scopes::is_newer(a, b) { b } else { a },
        scopes: forward.scopes(),
        actions: [forward.action(), reply.action()],
    })
}
