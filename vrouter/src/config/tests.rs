mod policy;

use std::{net::IpAddr, ops::ControlFlow, sync::Arc};

use control_api::engine as api;
use encap::MacAddress;
use flowtable::ScopeVersions;

use super::{ApplyError, Batch, Config, NextHopObject, PortChanges, RouteObject, RouteOrigin};
use crate::{
    fib::GroupIndex,
    next_hop::{Adjacency, NextHop, TunnelExit},
    port::{Backend, SocketAccess, VhostUserMode},
    scope::RouteScope,
    snapshot::{Snapshot, VrfIndex},
};

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn mac(address: &str) -> Vec<u8> {
    MacAddress::from_ip(address.parse().unwrap()).octets().into()
}

fn node() -> api::Node {
    api::Node {
        name: "node-a".into(),
        vtep_addresses: vec![bytes("192.0.2.1")],
        router_mac: mac("192.0.2.1"),
        uplink_port: "uplink".into(),
        ..api::Node::default()
    }
}

fn vrf(id: u32) -> api::Vrf {
    api::Vrf {
        id,
        name: format!("vrf-{id}"),
        vnis: vec![id + 1],
        gateway_addresses: vec![bytes("10.244.1.1"), bytes("fd00:10:244:1::1")],
        gateway_mac: mac("10.244.1.1"),
    }
}

fn port(name: &str, role: api::port::Role, addresses: &[&str]) -> api::Port {
    api::Port {
        name: name.into(),
        role: role.into(),
        addresses: addresses.iter().map(|address| bytes(address)).collect(),
        mac: mac(addresses.first().unwrap_or(&"192.0.2.1")),
        backend: Some(api::port::Backend::Memory(api::MemoryBackend {})),
        ..api::Port::default()
    }
}

fn guest(name: &str, addresses: &[&str]) -> api::Port {
    port(name, api::port::Role::Guest, addresses)
}

fn tunnel(name: &str, remote: &str) -> api::Tunnel {
    api::Tunnel {
        name: name.into(),
        remote: bytes(remote),
        vni: 1,
        remote_router_mac: mac(remote),
        ..api::Tunnel::default()
    }
}

fn route_key(prefix: &str) -> api::RouteKey {
    let (address, length) = prefix.split_once('/').unwrap();
    let prefix = api::Prefix { address: bytes(address), length: length.parse().unwrap() };
    api::RouteKey { vrf: 0, prefix: Some(prefix) }
}

fn route(prefix: &str, tunnels: &[&str]) -> api::Route {
    let next_hops = tunnels
        .iter()
        .map(|name| api::NextHop { via: Some(api::next_hop::Via::Tunnel((*name).into())) });
    api::Route { key: Some(route_key(prefix)), next_hops: next_hops.collect() }
}

trait IntoObject {
    fn object(self) -> api::Object;
}

macro_rules! into_object {
    ($($kind:ident),+) => {
        $(impl IntoObject for api::$kind {
            fn object(self) -> api::Object {
                api::Object { kind: Some(api::object::Kind::$kind(self)) }
            }
        })+
    };
}
into_object!(Node, Vrf, Port, Tunnel, Route, AddressSet, PolicySet);

fn try_apply(
    config: &mut Config,
    is_full_sync: bool,
    upserts: Vec<api::Object>,
    deletes: Vec<api::object_key::Kind>,
) -> Result<PortChanges, ApplyError> {
    let mut batch = Batch::new(config.generation() + 1, is_full_sync);
    let deletes = deletes.into_iter().map(|kind| api::ObjectKey { kind: Some(kind) }).collect();
    batch.push(api::ObjectBatch { upserts, deletes })?;
    config.apply(batch)
}

fn upsert(config: &mut Config, upserts: Vec<api::Object>) -> PortChanges {
    try_apply(config, false, upserts, vec![]).unwrap()
}

fn base() -> Vec<api::Object> {
    vec![
        node().object(),
        vrf(0).object(),
        port("uplink", api::port::Role::Uplink, &[]).object(),
        guest("default/a", &["10.244.1.2", "fd00:10:244:1::2"]).object(),
        tunnel("node-b/ipv4", "192.0.2.2").object(),
        route("10.244.2.0/24", &["node-b/ipv4"]).object(),
    ]
}

fn configured() -> Config {
    let mut config = Config::new();
    upsert(&mut config, base());
    config
}

fn group_of(snapshot: &Snapshot, address: &str) -> Option<GroupIndex> {
    let fib = &snapshot.vrfs[0].as_ref().unwrap().fib;
    fib.lookup(address.parse().unwrap()).map(|found| found.group)
}

fn hop_of(snapshot: &Snapshot, address: &str) -> NextHop {
    let index = snapshot.pick(group_of(snapshot, address).unwrap(), 0).unwrap();
    snapshot.next_hops.slot(index).unwrap().hop.clone()
}

fn message(result: Result<PortChanges, ApplyError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_guest_is_reachable_through_routes_that_its_port_makes() {
    let mut config = configured();
    let snapshot = config.snapshot(&ScopeVersions::new(0));
    assert_eq!(snapshot.version, 1);
    for address in ["10.244.1.2", "fd00:10:244:1::2"] {
        let NextHop::Port(hop) = hop_of(&snapshot, address) else { panic!("no port hop") };
        assert_eq!(hop.destination_mac.octets().to_vec(), mac("10.244.1.2"));
        assert_eq!(hop.source_mac.octets().to_vec(), mac("10.244.1.1"));
        assert_eq!(hop.mtu_bytes, 1500);
    }
    assert_eq!(group_of(&snapshot, "10.244.1.3"), None);
}

#[test]
fn a_tunnel_is_unresolved_until_its_adjacency_is_told() {
    let mut config = configured();
    let scopes = ScopeVersions::new(0);
    let NextHop::Tunnel(hop) = hop_of(&config.snapshot(&scopes), "10.244.2.9") else { panic!() };
    assert_eq!((hop.exit, hop.mtu_bytes), (TunnelExit::Pending, 1450));
    let (uplink, _) = config.port_by_name("uplink").unwrap();
    let remote: Vec<_> = config.underlay_addresses().collect();
    assert_eq!(remote, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    assert!(!config.is_changed());
    let adjacency = |mtu_bytes| Adjacency::Resolved {
        port: uplink,
        source_mac: MacAddress::new([2; 6]),
        destination_mac: MacAddress::new([4; 6]),
        mtu_bytes,
    };
    config.set_adjacency(remote[0], adjacency(9000));
    config.set_device_mtu(uplink, 9000);
    assert!(config.is_changed());
    let NextHop::Tunnel(hop) = hop_of(&config.snapshot(&scopes), "10.244.2.9") else { panic!() };
    assert_eq!((hop.exit, hop.mtu_bytes), (TunnelExit::Port(uplink), 8950));
    assert_eq!(hop.settings.destination_mac, MacAddress::new([4; 6]));
    // The least of what the device, the route and the client say.
    let mut mtu_of = |device, route| {
        config.set_device_mtu(uplink, device);
        config.set_adjacency(remote[0], adjacency(route));
        match hop_of(&config.snapshot(&scopes), "10.244.2.9") {
            NextHop::Tunnel(hop) => hop.mtu_bytes,
            hop => panic!("{hop:?}"),
        }
    };
    assert_eq!(mtu_of(9000, 1400), 1350);
    assert_eq!(mtu_of(1450, 9000), 1400);
    assert_eq!(mtu_of(1450, 1280), 1230);
    for (adjacency, exit) in [
        (Adjacency::Unreachable, TunnelExit::Unreachable),
        (Adjacency::Pending, TunnelExit::Pending),
    ] {
        config.set_adjacency(remote[0], adjacency);
        assert!(config.is_changed());
        let snapshot = config.snapshot(&scopes);
        let NextHop::Tunnel(hop) = hop_of(&snapshot, "10.244.2.9") else { panic!() };
        assert_eq!(hop.exit, exit);
    }
}

#[test]
fn a_batch_with_one_wrong_object_changes_nothing() {
    let mut config = configured();
    let before = config.snapshot(&ScopeVersions::new(0));
    let wrong = vec![
        guest("default/b", &["10.244.1.3"]).object(),
        route("10.0.0.0/8", &["node-b/ipv4", "node-c/ipv4"]).object(),
    ];
    assert_eq!(
        message(try_apply(&mut config, false, wrong, vec![])),
        "route 10.0.0.0/8 in vrf 0: next_hops[1].tunnel: \
         no tunnel is named \"node-c/ipv4\"; send it in this batch or before"
    );
    assert!(!config.is_changed());
    assert_eq!(config.generation(), 1);
    assert!(config.port_by_name("default/b").is_none());
    assert!(Arc::ptr_eq(&before.ports, &config.last_snapshot().ports));
}

/// Objects that do not fit the base configuration, each with what is said about it.
fn wrong_objects() -> Vec<(api::Object, &'static str)> {
    vec![
        (
            api::Port { mac: vec![1, 2, 3], ..guest("x/y", &["10.9.9.9"]) }.object(),
            "port \"x/y\": mac: 3 bytes are no MAC address; send 6",
        ),
        (
            api::Port { backend: None, ..guest("x/y", &["10.9.9.9"]) }.object(),
            "port \"x/y\": backend: is missing; set it",
        ),
        (
            guest("x/y", &["10.244.1.2"]).object(),
            "port \"x/y\": addresses[0]: port \"default/a\" has 10.244.1.2 already; \
             remove it there first, or in the same batch",
        ),
        (
            api::Port { vrf: 7, ..guest("x/y", &["10.9.9.9"]) }.object(),
            "port \"x/y\": vrf: no VRF is named \"7\"; send it in this batch or before",
        ),
        (
            api::Tunnel { vni: 1 << 24, ..tunnel("t", "192.0.2.3") }.object(),
            "tunnel \"t\": vni: 16777216 is out of range; 0 to 16777215 are possible",
        ),
        (
            tunnel("t", "2001:db8::3").object(),
            "tunnel \"t\": remote: this node has no IPv6 tunnel endpoint; \
             add one to node.vtep_addresses",
        ),
        (
            route("10.1.2.3/8", &["node-b/ipv4"]).object(),
            "a route in vrf 0: key.prefix: 10.1.2.3/8 has bits set beyond its length; \
             send 10.0.0.0/8",
        ),
        (
            api::Route { next_hops: vec![], ..route("10.0.0.0/8", &[]) }.object(),
            "route 10.0.0.0/8 in vrf 0: next_hops: is missing; set it",
        ),
        (
            api::Node { host_port: "default/a".into(), ..node() }.object(),
            "node \"node-a\": host_port: \"default/a\" is a port of another role; \
             name the port of role HOST",
        ),
        (
            api::Vrf { vnis: vec![1], ..vrf(5) }.object(),
            "vrf 5: vnis: vrf 0 has VNI 1 already; remove it there first, or in the same batch",
        ),
        (
            api::Node { vtep_addresses: vec![vec![1, 2]], ..node() }.object(),
            "node \"node-a\": vtep_addresses[0]: 2 bytes are no address; \
             send 4 for IPv4 or 16 for IPv6",
        ),
    ]
}

#[test]
fn errors_name_the_object_and_the_field() {
    let refused =
        |objects: Vec<api::Object>| message(try_apply(&mut configured(), false, objects, vec![]));
    for (object, expected) in wrong_objects() {
        assert_eq!(refused(vec![object]), expected);
    }
    let twice = vec![tunnel("t", "192.0.2.3").object(), tunnel("t", "192.0.2.4").object()];
    assert_eq!(refused(twice), "tunnel \"t\": key: is in the batch twice; send it once");
}

#[test]
fn what_a_route_uses_cannot_be_removed() {
    let mut config = configured();
    let tunnel = api::object_key::Kind::Tunnel("node-b/ipv4".into());
    assert_eq!(
        message(try_apply(&mut config, false, vec![], vec![tunnel.clone()])),
        "tunnel \"node-b/ipv4\": name: route 10.244.2.0/24 in vrf 0 still uses it; \
         remove that first, or in the same batch"
    );
    let route = api::object_key::Kind::Route(route_key("10.244.2.0/24"));
    try_apply(&mut config, false, vec![], vec![tunnel, route]).unwrap();
    assert_eq!(config.tunnels().count(), 0);
}

#[test]
fn a_full_sync_removes_what_it_does_not_name() {
    let mut config = configured();
    upsert(
        &mut config,
        vec![
            guest("default/b", &["10.244.1.3"]).object(),
            route("10.244.3.0/24", &["node-b/ipv4"]).object(),
        ],
    );
    let changes = try_apply(&mut config, true, base(), vec![]).unwrap();
    assert!(changes.opened.is_empty(), "ports that stay are not opened again");
    assert_eq!(changes.closed.len(), 1);
    assert_eq!(&*changes.closed[0].1.name, "default/b");
    let mut routes = Vec::new();
    let _ = config.routes().for_each(None, |RouteObject { key, next_hops }, origin| {
        routes.push((key.prefix.to_string(), next_hops[0].clone(), origin));
        ControlFlow::Continue(())
    });
    let port = || NextHopObject::Port("default/a".into());
    assert_eq!(
        routes,
        [
            ("10.244.1.2/32".to_owned(), port(), RouteOrigin::Port),
            (
                "10.244.2.0/24".to_owned(),
                NextHopObject::Tunnel("node-b/ipv4".into()),
                RouteOrigin::Static
            ),
            ("fd00:10:244:1::2/128".to_owned(), port(), RouteOrigin::Port),
        ]
    );
}

#[test]
fn an_address_may_move_between_ports_in_one_batch() {
    let mut config = configured();
    upsert(&mut config, vec![guest("default/b", &["10.244.1.3"]).object()]);
    upsert(
        &mut config,
        vec![
            guest("default/a", &["10.244.1.3"]).object(),
            guest("default/b", &["10.244.1.2"]).object(),
        ],
    );
    let moved = vec![guest("default/c", &["10.244.1.3"]).object()];
    let gone = vec![api::object_key::Kind::Port("default/a".into())];
    try_apply(&mut config, false, moved, gone).unwrap();
    let (route, _) = config.routes().to(0, "10.244.1.3".parse().unwrap()).unwrap();
    assert_eq!(*route.next_hops, [NextHopObject::Port("default/c".into())]);
}

#[test]
fn a_port_with_another_backend_is_opened_anew_behind_the_same_next_hop() {
    let mut config = configured();
    let before = config.snapshot(&ScopeVersions::new(0));
    let (old, _) = config.port_by_name("default/a").unwrap();
    let af_xdp = api::AfXdpBackend { interface: "veth1".into(), ..api::AfXdpBackend::default() };
    let changes = upsert(
        &mut config,
        vec![
            api::Port {
                backend: Some(api::port::Backend::AfXdp(af_xdp)),
                ..guest("default/a", &["10.244.1.2", "fd00:10:244:1::2"])
            }
            .object(),
        ],
    );
    let (new, _) = config.port_by_name("default/a").unwrap();
    assert_ne!(old, new);
    assert_eq!((changes.closed[0].0, changes.opened[0].0), (old, new));
    let after = config.snapshot(&ScopeVersions::new(0));
    assert_eq!(group_of(&before, "10.244.1.2"), group_of(&after, "10.244.1.2"));
    assert!(after.port(old).is_none());
    let NextHop::Port(hop) = hop_of(&after, "10.244.1.2") else { panic!() };
    assert_eq!(hop.port, new);
}

#[test]
fn a_vhost_user_port_needs_a_socket_that_can_be_made() {
    let mut config = configured();
    let port = |path: &str, file_mode| {
        let backend = api::VhostUserBackend {
            socket_path: path.into(),
            file_mode,
            ..api::VhostUserBackend::default()
        };
        let backend = Some(api::port::Backend::VhostUser(backend));
        api::Port { backend, ..guest("default/v", &["10.244.1.9"]) }.object()
    };
    let long = format!("/{}", "a".repeat(107));
    for (path, file_mode, message) in [
        ("", 0, "vhost_user.socket_path: is missing"),
        ("run/a", 0, "vhost_user.socket_path: run/a is relative"),
        (&long, 0, "vhost_user.socket_path: is 108 bytes long; at most 107"),
        ("/run/a", 0o1000, "vhost_user.file_mode: 512 is out of range"),
    ] {
        let error = try_apply(&mut config, false, vec![port(path, file_mode)], vec![]).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    upsert(&mut config, vec![port(&long[..107], 0)]);
    let (_, object) = config.port_by_name("default/v").unwrap();
    let Backend::VhostUser(backend) = &object.backend else { panic!("{:?}", object.backend) };
    let access = SocketAccess { uid: 0, gid: 0, file_mode: 0o600 };
    assert_eq!(backend.mode, VhostUserMode::Server(access));
}

#[test]
fn a_change_of_routes_shares_the_other_tables() {
    let mut config = configured();
    let scopes = ScopeVersions::new(0);
    let before = config.snapshot(&scopes);
    upsert(&mut config, vec![route("10.244.7.0/24", &["node-b/ipv4"]).object()]);
    let after = config.snapshot(&scopes);
    assert!(Arc::ptr_eq(&before.ports, &after.ports));
    assert!(Arc::ptr_eq(&before.groups, &after.groups));
    assert_eq!(group_of(&before, "10.244.7.1"), None);
    assert_eq!(group_of(&after, "10.244.7.1"), group_of(&after, "10.244.2.1"));
}

#[test]
fn a_route_that_nothing_covered_touches_only_what_has_no_route_in_its_family() {
    let scope =
        |prefix: &str| RouteScope { vrf: VrfIndex(0), prefix: prefix.parse().unwrap() }.id();
    let [none_v4, none_v6] = [scope("0.0.0.0/0"), scope("::/0")];
    let other = scope("10.244.2.0/24");
    for (prefix, is_v4) in [("10.244.7.0/24", true), ("fd00:7::/64", false)] {
        let mut config = configured();
        let scopes = ScopeVersions::new(0);
        let before = u32::try_from(config.snapshot(&scopes).version).unwrap();
        upsert(&mut config, vec![route(prefix, &["node-b/ipv4"]).object()]);
        let after = u32::try_from(config.snapshot(&scopes).version).unwrap();
        assert_eq!(scopes.touched_since(none_v4, before), is_v4);
        assert_eq!(scopes.touched_since(none_v6, before), !is_v4);
        // One that is covered touches what covered it.
        let longer = prefix.replace("/24", "/28").replace("/64", "/96");
        upsert(&mut config, vec![route(&longer, &["node-b/ipv4"]).object()]);
        let _ = config.snapshot(&scopes);
        assert!(scopes.touched_since(scope(prefix), after));
        assert!(!scopes.touched_since(none_v4, after) && !scopes.touched_since(none_v6, after));
        assert!(!scopes.touched_since(other, before));
    }
}

#[test]
fn flows_of_a_group_spread_over_its_members() {
    let mut config = configured();
    upsert(
        &mut config,
        vec![
            tunnel("node-c/ipv4", "192.0.2.3").object(),
            route("0.0.0.0/0", &["node-b/ipv4", "node-c/ipv4"]).object(),
        ],
    );
    let snapshot = config.snapshot(&ScopeVersions::new(0));
    let group = group_of(&snapshot, "203.0.113.1").unwrap();
    let low = snapshot.pick(group, 0).unwrap();
    let high = snapshot.pick(group, u64::MAX).unwrap();
    assert_ne!(low, high);
    assert_eq!(snapshot.pick(group, 1 << 62), Some(low));
}

#[test]
fn a_reused_slot_has_another_generation() {
    let mut config = configured();
    let scopes = ScopeVersions::new(0);
    let snapshot = config.snapshot(&scopes);
    let slot = snapshot.pick(group_of(&snapshot, "10.244.2.1").unwrap(), 0).unwrap();
    assert!(snapshot.next_hop(slot, 0).is_some());
    let gone = vec![
        api::object_key::Kind::Tunnel("node-b/ipv4".into()),
        api::object_key::Kind::Route(route_key("10.244.2.0/24")),
    ];
    try_apply(&mut config, false, vec![], gone).unwrap();
    upsert(&mut config, vec![tunnel("node-c/ipv4", "192.0.2.3").object()]);
    let snapshot = config.snapshot(&scopes);
    assert_eq!(snapshot.next_hop(slot, 0), None, "its former user is told apart");
    assert_eq!(snapshot.next_hop(slot, 1), Some(&NextHop::Unused));
}
