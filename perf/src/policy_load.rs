//! Policy as large clusters have it, and connections to judge by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control_api::engine as api;

use crate::traffic::shuffled;

/// Peers that rules name: pods of the cluster, half of them of either family.
pub const ADDRESSES: u32 = 10_000;
/// Address sets that they are in, each in one.
const SETS: u32 = 200;
/// One rule in so many names a block instead of address sets.
const BLOCK_EVERY: u32 = 10;
/// The first id of the address sets.
const SET_ID: u64 = 0x1000;

/// The `index`th peer. Those from [`ADDRESSES`] on are in no address set.
#[must_use]
pub fn peer(index: u32) -> IpAddr {
    let first = Ipv4Addr::new(10, 128, 0, 0).to_bits();
    let first_v6 = Ipv6Addr::new(0xfd00, 0x10, 0x128, 0, 0, 0, 0, 0).to_bits();
    if index.is_multiple_of(2) {
        Ipv4Addr::from_bits(first + index).into()
    } else {
        Ipv6Addr::from_bits(first_v6 + u128::from(index)).into()
    }
}

/// The address sets that rules name.
#[must_use]
pub fn address_sets() -> Vec<api::AddressSet> {
    let members = |set: u32| (0..ADDRESSES).filter(move |index| index % SETS == set);
    (0..SETS).map(|set| address_set(SET_ID + u64::from(set), members(set))).collect()
}

/// An address set of these peers, whose indices ascend.
#[must_use]
pub fn address_set(id: u64, members: impl Iterator<Item = u32>) -> api::AddressSet {
    let mut set = api::AddressSet { id, ..api::AddressSet::default() };
    for address in members.map(peer) {
        match address {
            IpAddr::V4(address) => set.ipv4.extend(address.octets()),
            IpAddr::V6(address) => set.ipv6.extend(address.octets()),
        }
    }
    set
}

/// A policy set of so many rules, each of a policy of its own: most of them let two of the address
/// sets pass, the others a block less a part of it; each on two ports and a range of TCP.
#[must_use]
pub fn policy_set(id: u64, rules: u32) -> api::PolicySet {
    api::PolicySet {
        id,
        policies: (0..rules)
            .map(|rule| format!("namespace-{}/policy-{rule}", rule % 100))
            .collect(),
        rules: (0..rules).map(rule).collect(),
    }
}

fn rule(policy: u32) -> api::PolicyRule {
    // The first names address sets.
    let index = policy + 1;
    let ports = |first: u32, last: u32| api::ProtocolPorts { protocol: 6, first, last };
    let first = 1000 + index % 1000 * 60;
    let mut rule = api::PolicyRule {
        ports: vec![ports(80, 80), ports(443, 443), ports(first, first + 50)],
        policy,
        path: format!("spec.ingress[0].from[{index}]"),
        ..api::PolicyRule::default()
    };
    if index.is_multiple_of(BLOCK_EVERY) {
        let octets =
            |third: u32, last: u8| vec![172, 16, u8::try_from(third % 256).unwrap_or(0), last];
        rule.blocks = vec![api::IpBlock {
            block: Some(api::Prefix { address: octets(index / BLOCK_EVERY, 0), length: 24 }),
            excepts: vec![api::Prefix { address: octets(index / BLOCK_EVERY, 16), length: 28 }],
        }];
    } else {
        let set = |number: u32| SET_ID + u64::from(number % SETS);
        rule.address_sets = vec![set(index), set(index * 7 + 3)];
    }
    rule
}

/// So many peers and ports, in random order: one in four peers is in no address set, and one port
/// in two is let pass by many rules.
#[must_use]
pub fn questions(count: u32) -> Vec<(IpAddr, u16)> {
    let question = |index: u32| {
        let beyond = index % 4 == 3;
        let address = peer(index % ADDRESSES + if beyond { ADDRESSES } else { 0 });
        let port = if index.is_multiple_of(2) { 80 } else { index % 50_000 };
        (address, u16::try_from(port).unwrap_or(443))
    };
    shuffled(count).into_iter().map(question).collect()
}
