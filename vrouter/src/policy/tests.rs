use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    AddressSets, IpBlock, PolicyCompiler, PolicyRule, PolicySetObject, PortRange, RuleIndex,
};

const TCP: u8 = 6;
const SETS: u64 = 4;

/// Few addresses, of both families, so that sets and blocks meet.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3_u8, 0..6_u8).prop_map(|(third, last)| IpAddr::from([10, 0, third, last])),
        (0..3_u16, 0..6_u16)
            .prop_map(|(third, last)| IpAddr::from([0xfd00, 0, third, 0, 0, 0, 0, last])),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), any::<Index>()).prop_map(|(address, length)| {
        let (least, most) = if address.is_ipv4() { (16_usize, 32) } else { (32, 128) };
        let length = u8::try_from(least + length.index(most - least + 1)).unwrap();
        IpNet::new(address, length).unwrap().trunc()
    })
}

fn block() -> impl Strategy<Value = IpBlock> {
    (prefix(), vec(any::<Index>(), 0..3)).prop_map(|(prefix, excepts)| {
        let most = if prefix.addr().is_ipv4() { 32 } else { 128 };
        let except = |index: &Index| {
            let length = prefix.prefix_len();
            let longer =
                length + u8::try_from(index.index(usize::from(most - length) + 1)).unwrap();
            IpNet::new(prefix.addr(), longer).unwrap()
        };
        IpBlock { prefix, excepts: excepts.iter().map(except).collect() }
    })
}

fn range() -> impl Strategy<Value = PortRange> {
    let protocol = prop_oneof![Just(TCP), Just(17), Just(132)];
    (protocol, 0..20_u16, 0..5_u16).prop_map(|(protocol, first, more)| PortRange {
        protocol,
        first,
        last: first + more,
    })
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let peers = (prop::bool::weighted(0.1), vec(0..SETS, 0..3), vec(block(), 0..3));
    (peers, vec(range(), 0..4)).prop_map(|((is_any_peer, sets, blocks), ports)| PolicyRule {
        is_any_peer,
        address_sets: sets.into(),
        blocks: blocks.into(),
        ports: ports.into(),
        ..PolicyRule::default()
    })
}

fn object(rules: Vec<PolicyRule>) -> Arc<PolicySetObject> {
    Arc::new(PolicySetObject { id: 1, rules: rules.into(), ..PolicySetObject::default() })
}

/// The first rule that lets the connection pass, rule by rule.
fn naive(
    rules: &[PolicyRule],
    sets: &[BTreeSet<IpAddr>],
    peer: IpAddr,
    protocol: u8,
    port: Option<u16>,
) -> Option<RuleIndex> {
    let passes = |rule: &PolicyRule| {
        let is_in_set = |set: &u64| sets[usize::try_from(*set).unwrap()].contains(&peer);
        let is_in_block = |block: &IpBlock| {
            block.prefix.contains(&peer) && !block.excepts.iter().any(|it| it.contains(&peer))
        };
        let is_peer = rule.is_any_peer
            || rule.address_sets.iter().any(is_in_set)
            || rule.blocks.iter().any(is_in_block);
        let is_port = |range: &PortRange| {
            range.protocol == protocol
                && port.is_some_and(|port| (range.first..=range.last).contains(&port))
        };
        is_peer && (rule.ports.is_empty() || rule.ports.iter().any(is_port))
    };
    let first = rules.iter().position(passes)?;
    Some(RuleIndex(u32::try_from(first).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_compiled_judges_as_rule_by_rule_also_after_changes(
        rules in vec(rule(), 0..6),
        first in vec(vec(address(), 0..5), 4),
        changes in vec((0..SETS, vec(address(), 0..5)), 0..6),
        questions in vec((address(), prop_oneof![Just(TCP), Just(17), Just(1)], 0..26_u16), 1..40),
    ) {
        let mut sets = AddressSets::default();
        let mut plain: Vec<BTreeSet<IpAddr>> =
            first.into_iter().map(|set| set.into_iter().collect()).collect();
        for (id, set) in (0..).zip(&plain) {
            sets.insert(id, set.clone());
        }
        let mut compiler = PolicyCompiler::new(object(rules.clone()), &sets);
        let steps = std::iter::once(None).chain(changes.into_iter().map(Some));
        for step in steps {
            if let Some((id, set)) = step {
                let set: BTreeSet<IpAddr> = set.into_iter().collect();
                plain[usize::try_from(id).unwrap()] = set.clone();
                let changed = sets.insert(id, set);
                if compiler.names(id) {
                    compiler.readdress(&changed, &sets);
                }
            }
            for &(peer, protocol, port) in &questions {
                let port = (protocol != 1).then_some(port);
                prop_assert_eq!(
                    compiler.compiled().judge(peer, protocol, port),
                    naive(&rules, &plain, peer, protocol, port),
                    "{} {} {:?}", peer, protocol, port
                );
            }
        }
    }
}

#[test]
fn a_clone_judges_as_before_whatever_changes_later() {
    let peer: IpAddr = [10, 0, 0, 1].into();
    let rule = PolicyRule { address_sets: [7].into(), ..PolicyRule::default() };
    let mut sets = AddressSets::default();
    sets.insert(7, [peer].into());
    let mut compiler = PolicyCompiler::new(object(vec![rule]), &sets);
    let before = compiler.compiled().clone();
    let changed = sets.insert(7, BTreeSet::new());
    compiler.readdress(&changed, &sets);
    assert_eq!(before.judge(peer, TCP, Some(80)), Some(RuleIndex(0)));
    assert_eq!(compiler.compiled().judge(peer, TCP, Some(80)), None);
}

#[test]
fn classes_that_nobody_is_in_make_room_for_others() {
    let rules =
        (0..8).map(|set| PolicyRule { address_sets: [set].into(), ..PolicyRule::default() });
    let mut sets = AddressSets::default();
    let mut compiler = PolicyCompiler::new(object(rules.collect()), &sets);
    for step in 0..1000_u32 {
        let member = IpAddr::from((0x0a00_0000 | (step % 16)).to_be_bytes());
        let id = u64::from(step % 8);
        let members = if step % 3 == 0 { BTreeSet::new() } else { BTreeSet::from([member]) };
        let changed = sets.insert(id, members);
        compiler.readdress(&changed, &sets);
    }
    // Eight sets of one member each, and those whom no rule names.
    assert!(compiler.compiled().classes.len() <= 10, "{}", compiler.compiled().classes.len());
}
