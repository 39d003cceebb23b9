use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use control_api::engine as api;
use flowtable::ScopeVersions;
use proptest::{collection::vec, prelude::*};

use super::{IntoObject, base, bytes, guest, message, try_apply, upsert};
use crate::{
    config::{Config, Problem},
    judge::{Connection, Verdict},
    scope::PolicyScope,
    snapshot::{Snapshot, VrfIndex},
};

const WEB: u64 = 0x10;
const SET: u64 = 0xa0;

fn address_set(id: u64, addresses: &[&str]) -> api::AddressSet {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for address in addresses {
        let address = bytes(address);
        if address.len() == 4 { &mut ipv4 } else { &mut ipv6 }.extend(address);
    }
    api::AddressSet { id, ipv4, ipv6 }
}

fn tcp(first: u32, last: u32) -> api::ProtocolPorts {
    api::ProtocolPorts { protocol: 6, first, last }
}

fn rule(address_sets: &[u64], ports: &[api::ProtocolPorts]) -> api::PolicyRule {
    api::PolicyRule {
        address_sets: address_sets.into(),
        ports: ports.into(),
        path: "spec.ingress[0]".into(),
        ..api::PolicyRule::default()
    }
}

fn policy_set(id: u64, rules: Vec<api::PolicyRule>) -> api::PolicySet {
    api::PolicySet { id, policies: vec!["default/web".into()], rules }
}

fn isolated(name: &str, address: &str, ingress_policy: u64) -> api::Port {
    api::Port { ingress_policy, ..guest(name, &[address]) }
}

/// `default/b`, 10.244.1.3, takes TCP port 80 from 10.244.2.7 and `fd00::7`.
fn isolating() -> Vec<api::Object> {
    let mut objects = base();
    objects.extend([
        isolated("default/b", "10.244.1.3", WEB).object(),
        policy_set(WEB, vec![rule(&[SET], &[tcp(80, 80)])]).object(),
        address_set(SET, &["10.244.2.7", "fd00::7"]).object(),
    ]);
    objects
}

fn configured() -> Config {
    let mut config = Config::new();
    upsert(&mut config, isolating());
    config
}

fn to_b(snapshot: &Snapshot, source: &str) -> bool {
    let connection = Connection {
        vrf: VrfIndex(0),
        source: source.parse().unwrap(),
        destination: [10, 244, 1, 3].into(),
        protocol: 6,
        destination_port: 80,
    };
    let [_, ingress] = snapshot.explain(&connection);
    match ingress {
        Verdict::Allowed { .. } => true,
        Verdict::Denied { .. } => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_order_of_sets_and_ports_in_a_batch_means_nothing() {
    for is_reversed in [false, true] {
        let mut objects = isolating();
        if is_reversed {
            objects.reverse();
        }
        let mut config = Config::new();
        upsert(&mut config, objects);
        let snapshot = config.snapshot(&ScopeVersions::new(0));
        assert!(to_b(&snapshot, "10.244.2.7"));
        assert!(!to_b(&snapshot, "10.244.2.8"));
    }
}

#[test]
fn what_an_object_names_must_be_there_and_the_error_names_both() {
    let port = isolated("default/c", "10.244.1.4", 0x99).object();
    let set = policy_set(0x11, vec![rule(&[], &[]), rule(&[SET, 0x98], &[])]).object();
    let mut config = configured();
    for (object, text) in [
        (
            port,
            "port \"default/c\": ingress_policy: no policy set is named \"0000000000000099\"; send \
             it in this batch or before",
        ),
        (
            set,
            "policy set 0000000000000011: rules[1].address_sets: no address set is named \
             \"0000000000000098\"; send it in this batch or before",
        ),
    ] {
        assert_eq!(message(try_apply(&mut config, false, vec![object], vec![])), text);
    }
}

#[test]
fn what_is_in_use_cannot_be_deleted_and_nothing_else_of_the_batch_is_in_force() {
    use api::object_key::Kind;
    let mut config = configured();
    for (key, text) in [
        (Kind::PolicySet(WEB), "policy set 0000000000000010: id: port \"default/b\" still uses it"),
        (
            Kind::AddressSet(SET),
            "address set 00000000000000a0: id: policy set 0000000000000010 still uses it",
        ),
    ] {
        let more = vec![address_set(7, &["10.0.0.1"]).object()];
        let error = message(try_apply(&mut config, false, more, vec![key]));
        assert!(error.starts_with(text), "{error}");
        assert!(!config.address_sets().contains(7));
        assert!(to_b(&config.snapshot(&ScopeVersions::new(0)), "10.244.2.7"));
    }
    // Together with what uses them they may go.
    let port = isolated("default/b", "10.244.1.3", 0).object();
    let deletes = vec![Kind::PolicySet(WEB), Kind::AddressSet(SET)];
    try_apply(&mut config, false, vec![port], deletes).unwrap();
    assert_eq!((config.policy_sets().count(), config.address_sets().len()), (0, 0));
}

#[test]
fn a_full_sync_removes_the_sets_that_it_does_not_name_and_keeps_equal_ones() {
    let mut config = configured();
    let extra = vec![
        address_set(9, &["10.0.0.1"]).object(),
        policy_set(0x12, vec![rule(&[9], &[])]).object(),
    ];
    upsert(&mut config, extra);
    let scopes = ScopeVersions::new(0);
    let before = u32::try_from(config.snapshot(&scopes).version).unwrap();
    try_apply(&mut config, true, isolating(), vec![]).unwrap();
    let snapshot = config.snapshot(&scopes);
    assert_eq!((config.policy_sets().count(), config.address_sets().len()), (1, 1));
    assert!(!scopes.touched_since(scope(&config, "default/b"), before), "nothing is new for it");
    assert!(to_b(&snapshot, "10.244.2.7"));
}

fn scope(config: &Config, port: &str) -> flowtable::ScopeId {
    let (port, _) = config.port_by_name(port).unwrap();
    let entry = config.last_snapshot().port(port).unwrap();
    PolicyScope(entry.next_hop).id()
}

#[test]
fn a_change_touches_the_ports_that_it_may_mean_something_to_and_no_others() {
    let mut config = configured();
    let other = vec![
        isolated("default/c", "10.244.1.4", 0x11).object(),
        policy_set(0x11, vec![rule(&[0xb0], &[])]).object(),
        address_set(0xb0, &[]).object(),
    ];
    upsert(&mut config, other);
    let scopes = ScopeVersions::new(0);
    let _ = config.snapshot(&scopes);
    let (b, c) = (scope(&config, "default/b"), scope(&config, "default/c"));
    let mut check = |object: api::Object, expected: [bool; 2], why: &str| {
        let before = u32::try_from(config.last_snapshot().version).unwrap();
        upsert(&mut config, vec![object]);
        let _ = config.snapshot(&scopes);
        assert_eq!([b, c].map(|scope| scopes.touched_since(scope, before)), expected, "{why}");
    };
    let members = ["10.244.2.7", "10.244.2.8", "fd00::7"];
    check(address_set(SET, &members).object(), [true, false], "an address came");
    check(address_set(SET, &members).object(), [false, false], "it came already");
    check(address_set(SET, &[]).object(), [true, false], "all went");
    let same = policy_set(0x11, vec![rule(&[0xb0], &[])]);
    check(same.object(), [false, false], "an equal set");
    check(policy_set(0x11, vec![]).object(), [false, true], "another set");
    check(isolated("default/c", "10.244.1.4", WEB).object(), [false, true], "another set's id");
    check(isolated("default/c", "10.244.1.4", WEB).object(), [false, false], "the same");
    check(address_set(SET, &["10.0.0.1"]).object(), [true, true], "both have it now");
}

#[test]
fn a_changed_address_set_shares_the_other_tables_and_leaves_older_snapshots_alone() {
    let mut config = configured();
    let scopes = ScopeVersions::new(0);
    let before = config.snapshot(&scopes);
    upsert(&mut config, vec![address_set(SET, &["10.244.2.8"]).object()]);
    assert!(config.is_changed());
    let after = config.snapshot(&scopes);
    assert!(std::sync::Arc::ptr_eq(&before.ports, &after.ports));
    for (snapshot, allowed) in [(&before, "10.244.2.7"), (&after, "10.244.2.8")] {
        for source in ["10.244.2.7", "10.244.2.8"] {
            assert_eq!(to_b(snapshot, source), source == allowed);
        }
    }
}

#[test]
fn sets_that_are_not_possible_are_refused_with_their_field() {
    let block = |block: &str, excepts: &[&str]| {
        let prefix = |prefix: &str| super::route_key(prefix).prefix.unwrap();
        api::IpBlock {
            block: Some(prefix(block)),
            excepts: excepts.iter().map(|it| prefix(it)).collect(),
        }
    };
    let with_block =
        |block| policy_set(1, vec![api::PolicyRule { blocks: vec![block], ..rule(&[], &[]) }]);
    let with_ports = |ports| policy_set(1, vec![rule(&[], &[]), rule(&[], &[ports])]);
    let foreign = api::PolicyRule { policy: 1, ..rule(&[], &[]) };
    let long = api::PolicyRule { path: "a".repeat(385), ..rule(&[], &[]) };
    for (object, text) in [
        (address_set(0, &[]).object(), "address set 0000000000000000: id: is missing"),
        (
            address_set(1, &["10.0.0.2", "10.0.0.1"]).object(),
            "address set 0000000000000001: ipv4[1]: 10.0.0.1 is not greater",
        ),
        (
            address_set(1, &["fd00::1", "fd00::1"]).object(),
            "address set 0000000000000001: ipv6[1]: fd00::1 is not greater",
        ),
        (
            api::AddressSet { ipv4: vec![10, 0, 0], ..address_set(1, &[]) }.object(),
            "address set 0000000000000001: ipv4: 3 bytes are no whole number of addresses; send 4",
        ),
        (policy_set(0, vec![]).object(), "policy set 0000000000000000: id: is missing"),
        (
            api::PolicySet { policies: vec![String::new()], ..policy_set(1, vec![]) }.object(),
            "policy set 0000000000000001: policies[0]: is missing",
        ),
        (
            policy_set(1, vec![foreign]).object(),
            "policy set 0000000000000001: rules[0].policy: no policy is named \"1\"",
        ),
        (policy_set(1, vec![long]).object(), "rules[0].path: is 385 bytes long; at most 384"),
        (
            with_block(block("10.0.0.0/8", &["10.1.0.0/16", "11.0.0.0/16"])).object(),
            "rules[0].blocks[0].excepts[1]: 11.0.0.0/16 is not within 10.0.0.0/8",
        ),
        (
            with_block(block("10.0.0.1/8", &[])).object(),
            "rules[0].blocks[0].block: 10.0.0.1/8 has bits set beyond its length",
        ),
        (with_block(api::IpBlock::default()).object(), "rules[0].blocks[0].block: is missing"),
        (
            with_ports(api::ProtocolPorts { protocol: 1, first: 0, last: 0 }).object(),
            "rules[1].ports[0].protocol: protocol 1 has no ports",
        ),
        (
            with_ports(tcp(80, 79)).object(),
            "rules[1].ports[0].last: 79 is out of range; 80 to 65535",
        ),
        (with_ports(tcp(0, 65_536)).object(), "rules[1].ports[0].last: 65536 is out of range"),
    ] {
        let error = message(try_apply(&mut Config::new(), false, vec![object], vec![]));
        assert!(error.contains(text), "{error}\nis not\n{text}");
    }
    let host = api::Port { ingress_policy: WEB, ..super::port("h", api::port::Role::Host, &[]) };
    let error = try_apply(&mut configured(), false, vec![host.object()], vec![]).unwrap_err();
    assert_eq!(error.problem, Problem::NotAGuest);
}

#[test]
fn a_set_both_changed_and_deleted_is_a_contradiction() {
    use api::object_key::Kind;
    let mut config = configured();
    for (object, key) in [
        (address_set(5, &[]).object(), Kind::AddressSet(5)),
        (policy_set(5, vec![]).object(), Kind::PolicySet(5)),
    ] {
        let error = try_apply(&mut config, false, vec![object], vec![key]).unwrap_err();
        assert_eq!(error.problem, Problem::ChangedAndDeleted);
    }
}

#[test]
fn a_place_of_a_set_that_is_gone_is_used_again_and_never_by_two() {
    use api::object_key::Kind;
    let mut config = configured();
    let rules = |last: u8| {
        let block = api::IpBlock {
            block: Some(api::Prefix { address: vec![10, 0, 0, last], length: 32 }),
            excepts: vec![],
        };
        vec![api::PolicyRule { blocks: vec![block], ..rule(&[], &[]) }]
    };
    for round in 0..100_u8 {
        let id = 0x100 + u64::from(round);
        let set = policy_set(id, rules(round)).object();
        let port = isolated("default/c", "10.244.1.4", id).object();
        let deletes = if round > 0 { vec![Kind::PolicySet(id - 1)] } else { vec![] };
        try_apply(&mut config, false, vec![set, port], deletes).unwrap();
        let snapshot = config.snapshot(&ScopeVersions::new(0));
        let connection = |last: u8| Connection {
            vrf: VrfIndex(0),
            source: IpAddr::from([10, 0, 0, last]),
            destination: [10, 244, 1, 4].into(),
            protocol: 17,
            destination_port: 53,
        };
        let [_, own] = snapshot.explain(&connection(round));
        let [_, former] = snapshot.explain(&connection(round.wrapping_sub(1)));
        assert!(matches!(own, Verdict::Allowed { .. }), "{own:?}");
        assert!(matches!(former, Verdict::Denied { .. }), "{former:?}");
        assert!(to_b(&snapshot, "10.244.2.7"));
    }
}

/// What a batch may do to policy: sets of few ids, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Addresses(u64, Vec<u8>),
    Rules(u64, Vec<Vec<u64>>),
    Port(u8, u64),
    DropAddresses(u64),
    DropRules(u64),
    Everything,
}

fn step() -> impl Strategy<Value = Step> {
    let (set, policy) = (1..5_u64, 1..4_u64);
    prop_oneof![
        3 => (set.clone(), vec(0..6_u8, 0..4)).prop_map(|(id, members)| Step::Addresses(id, members)),
        3 => (policy.clone(), vec(vec(set.clone(), 0..3), 0..3)).prop_map(|(id, rules)| Step::Rules(id, rules)),
        3 => (0..3_u8, 0..4_u64).prop_map(|(port, set)| Step::Port(port, set)),
        1 => set.prop_map(Step::DropAddresses),
        1 => policy.prop_map(Step::DropRules),
        1 => Just(Step::Everything),
    ]
}

/// All objects that a client would have sent.
#[derive(Clone, Debug, Default)]
struct Wanted {
    addresses: BTreeMap<u64, api::AddressSet>,
    policies: BTreeMap<u64, api::PolicySet>,
    ports: BTreeMap<u8, u64>,
}

impl Wanted {
    fn objects(&self) -> Vec<api::Object> {
        let mut objects = base();
        objects.extend(self.addresses.values().cloned().map(IntoObject::object));
        objects.extend(self.policies.values().cloned().map(IntoObject::object));
        objects.extend(self.ports.iter().map(|(port, set)| pod(*port, *set)));
        objects
    }

    /// The step as a batch.
    fn take(&mut self, step: Step) -> (Vec<api::Object>, Vec<api::object_key::Kind>) {
        use api::object_key::Kind;
        match step {
            Step::Addresses(id, members) => {
                let members: BTreeSet<u8> = members.into_iter().collect();
                let members: Vec<String> =
                    members.iter().map(|last| format!("10.0.0.{last}")).collect();
                let members: Vec<&str> = members.iter().map(String::as_str).collect();
                let set = address_set(id, &members);
                self.addresses.insert(id, set.clone());
                (vec![set.object()], vec![])
            }
            Step::Rules(id, rules) => {
                let rules = rules.iter().map(|sets| rule(sets, &[])).collect();
                let set = policy_set(id, rules);
                self.policies.insert(id, set.clone());
                (vec![set.object()], vec![])
            }
            Step::Port(port, set) => {
                self.ports.insert(port, set);
                (vec![pod(port, set)], vec![])
            }
            Step::DropAddresses(id) => {
                self.addresses.remove(&id);
                (vec![], vec![Kind::AddressSet(id)])
            }
            Step::DropRules(id) => {
                self.policies.remove(&id);
                (vec![], vec![Kind::PolicySet(id)])
            }
            Step::Everything => (self.objects(), vec![]),
        }
    }
}

fn pod(port: u8, ingress: u64) -> api::Object {
    isolated(&format!("pods/{port}"), &format!("10.244.1.{}", 100 + port), ingress).object()
}

/// What each pod says to each peer.
fn verdicts(config: &mut Config, scopes: &ScopeVersions) -> Vec<String> {
    let snapshot = config.snapshot(scopes);
    let mut verdicts = Vec::new();
    for (pod, peer) in (0..3_u8).flat_map(|pod| (0..6_u8).map(move |peer| (pod, peer))) {
        let connection = Connection {
            vrf: VrfIndex(0),
            source: [10, 0, 0, peer].into(),
            destination: [10, 244, 1, 100 + pod].into(),
            protocol: 6,
            destination_port: 80,
        };
        let [_, ingress] = snapshot.explain(&connection);
        let rule = match ingress {
            Verdict::Allowed { rule, set, .. } => Some((rule, set.object().id)),
            _ => None,
        };
        verdicts.push(format!("{pod} {peer} {:?} {rule:?}", std::mem::discriminant(&ingress)));
    }
    verdicts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_way_there_the_same_objects_judge_alike(steps in vec(step(), 1..24)) {
        let mut config = Config::new();
        upsert(&mut config, base());
        let scopes = ScopeVersions::new(0);
        let mut wanted = Wanted::default();
        for step in steps {
            let is_full_sync = matches!(step, Step::Everything);
            let mut next = wanted.clone();
            let (upserts, deletes) = next.take(step);
            let applied = try_apply(&mut config, is_full_sync, upserts, deletes);
            // A refused batch has changed nothing.
            if applied.is_ok() {
                wanted = next;
            }
            let mut fresh = Config::new();
            try_apply(&mut fresh, true, wanted.objects(), vec![]).unwrap();
            prop_assert_eq!(verdicts(&mut config, &scopes), verdicts(&mut fresh, &scopes));
            prop_assert_eq!(config.address_sets().len(), wanted.addresses.len());
            prop_assert_eq!(config.policy_sets().count(), wanted.policies.len());
        }
    }
}
