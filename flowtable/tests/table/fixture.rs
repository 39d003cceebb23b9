//! A table of a known kind of action, and short ways to use it.

use std::net::{Ipv4Addr, Ipv6Addr};

use flowtable::{
    Action, Config, ConfigView, FlowKey, FlowRef, FlowTable, FlowWorker, InsertOutcome, Lookup,
    Memory, NewConnection, PacketFacts, ScopeId, Scopes, TcpFacts, TcpFlags, Tracking,
    TransportFacts,
};

/// An action of the full size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Verb(pub(crate) [u64; 4]);

impl Action for Verb {
    const LAYOUT: u32 = 7;
}

pub(crate) const DATAGRAM: PacketFacts =
    PacketFacts { bytes: 100, transport: TransportFacts::Datagram };

pub(crate) const SCOPES: Scopes = Scopes([ScopeId(3), ScopeId(9), ScopeId::NONE, ScopeId::NONE]);

pub(crate) fn config(connections: u32) -> Config {
    Config {
        ipv4_connections_max: connections,
        ipv6_connections_max: connections,
        fragments_max: 64,
        hash_key: [1, 2],
        memory: Memory::Heap,
        tracking: Tracking::default(),
    }
}

pub(crate) fn table(connections: u32) -> FlowTable<Verb> {
    FlowTable::create(&config(connections)).unwrap()
}

pub(crate) fn key4(protocol: u8, number: u32) -> FlowKey {
    let [_, _, upper, lower] = number.to_be_bytes();
    let source = Ipv4Addr::from_bits(0x0a00_0000 | (number >> 16));
    let port = u16::from_be_bytes([upper, lower]);
    FlowKey::v4(1, protocol, (source, port), (Ipv4Addr::new(10, 200, 0, 2), 53))
}

pub(crate) fn key6(protocol: u8, number: u32) -> FlowKey {
    let [_, _, upper, lower] = number.to_be_bytes();
    let source = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number >> 16));
    let port = u16::from_be_bytes([upper, lower]);
    FlowKey::v6(1, protocol, (source, port), (Ipv6Addr::from_bits(0xfd01 << 112 | 2), 53))
}

pub(crate) fn udp(number: u32) -> FlowKey {
    key4(17, number)
}

pub(crate) fn udp6(number: u32) -> FlowKey {
    key6(17, number)
}

pub(crate) fn actions(version: u32) -> [Verb; 2] {
    [Verb([1, 2, 3, u64::from(version)]), Verb([5, 6, 7, u64::from(version)])]
}

pub(crate) fn tcp(flags: TcpFlags, sequence: u32, acknowledgement: u32) -> PacketFacts {
    let facts = TcpFacts {
        flags,
        sequence,
        acknowledgement,
        window: 65_535,
        payload_bytes: 0,
        window_scale: None,
    };
    PacketFacts { bytes: 60, transport: TransportFacts::Tcp(facts) }
}

pub(crate) fn new_connection<'a>(
    table: &FlowTable<Verb>,
    forward: FlowKey,
    reply: FlowKey,
    facts: &'a PacketFacts,
) -> NewConnection<'a, Verb> {
    NewConnection {
        forward,
        reply,
        forward_hash: table.hash(&forward),
        reply_hash: table.hash(&reply),
        actions: actions(1),
        version: 1,
        scopes: SCOPES,
        facts,
        now: 0,
    }
}

pub(crate) fn insert_nat(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    forward: FlowKey,
    reply: FlowKey,
    version: u32,
) -> InsertOutcome {
    let new = new_connection(table, forward, reply, &DATAGRAM);
    worker.insert_pair(&NewConnection { actions: actions(version), version, ..new })
}

pub(crate) fn insert(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    key: FlowKey,
    version: u32,
) -> InsertOutcome {
    insert_nat(table, worker, key, key.reversed(), version)
}

pub(crate) fn inserted(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    key: FlowKey,
) -> FlowRef {
    match insert(table, worker, key, 1) {
        InsertOutcome::Inserted(flow) => flow,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn look(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    key: &FlowKey,
    config: ConfigView<'_>,
) -> Lookup {
    let mut out = [Lookup::Miss];
    worker.lookup_burst(&[*key], &[table.hash(key)], config, &mut out);
    out[0]
}
