//! The underlay's next hops, with the kernel's own stacks as neighbours.

#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "support/namespace.rs"]
mod namespace;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use encap::MacAddress;
use namespace::{Namespace, join};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vrouter::underlay::{Change, NEIGHBOUR_PENDING_MAX, Obstacle, Underlay, Way};

/// How long a test waits for what must happen: the machine may stall for seconds, and the kernel
/// probes a silent neighbour three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(40);

/// Two nodes on one link, each with an address of both families.
struct Nodes {
    ours: Namespace,
    theirs: Namespace,
    underlay: Underlay,
    seen: Vec<Change>,
    /// Polls see this time, if time stands still.
    frozen: Option<Instant>,
}

const THEIR_ADDRESSES: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);

impl Nodes {
    fn create() -> Self {
        let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
        join((&ours, "up0"), (&theirs, "up0"), 1, 1500);
        theirs.sysctl("net.ipv4.conf.up0.arp_notify", "1");
        theirs.sysctl("net.ipv6.conf.up0.ndisc_notify", "1");
        theirs.ip("link set up0 address 02:00:00:00:00:02");
        for (namespace, end) in [(&ours, 1), (&theirs, 2)] {
            namespace.ip(&format!("addr add 192.0.2.{end}/24 dev up0"));
            namespace.ip(&format!("addr add 2001:db8::{end}/64 dev up0 nodad"));
        }
        let underlay = ours.inside(|| Underlay::open().unwrap());
        Self { ours, theirs, underlay, seen: Vec::new(), frozen: None }
    }

    /// Polls until `happened` says yes.
    fn wait_for(&mut self, what: &str, happened: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.frozen.unwrap_or_else(Instant::now);
            self.seen.extend(self.underlay.poll(now).unwrap());
            if happened(self) {
                return;
            }
            assert!(Instant::now() < deadline, "waited too long for {what}: {:?}", self.seen);
            let pause = self.underlay.next_poll().min(deadline);
            let pause = pause.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(pause).unwrap();
            let descriptor = self.underlay.descriptor();
            poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).unwrap();
        }
    }

    fn wait_for_way(&mut self, remote: &str, what: &str, expected: impl Fn(&Way) -> bool) {
        let remote: IpAddr = remote.parse().unwrap();
        self.wait_for(what, |nodes| nodes.underlay.way(remote).is_some_and(&expected));
    }

    fn way(&self, remote: &str) -> &Way {
        self.underlay.way(remote.parse().unwrap()).unwrap()
    }

    fn target(&mut self, remotes: &[&str]) {
        self.underlay.set_targets(remotes.iter().map(|remote| remote.parse::<IpAddr>().unwrap()));
    }
}

fn is_via(way: &Way, address: &str, mac: MacAddress) -> bool {
    let address: IpAddr = address.parse().unwrap();
    matches!(way, Way::Resolved(hop)
        if hop.address == address && hop.destination_mac == mac && hop.interface == "up0")
}

fn has_mtu(way: &Way, mtu_bytes: u32) -> bool {
    matches!(way, Way::Resolved(hop) if hop.mtu_bytes == mtu_bytes)
}

/// Whether the kernel asks for a neighbour, as we were told.
fn is_asked(nodes: &Nodes, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    nodes.underlay.neighbours().any(|hop| hop.address == address && hop.state == "pending")
}

/// Neighbours that our kernel keeps resolved.
fn managed(nodes: &Nodes) -> usize {
    nodes.ours.run("ip neigh show dev up0").matches("managed").count()
}

/// Whether a change of MTU was told.
fn has_told_mtu(nodes: &Nodes, told: u32) -> bool {
    nodes.seen.iter().any(|it| matches!(it, Change::Mtu { mtu_bytes, .. } if *mtu_bytes == told))
}

#[test]
fn a_neighbour_is_resolved_without_traffic_and_its_new_mac_address_is_followed() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&THEIR_ADDRESSES);
    for remote in THEIR_ADDRESSES {
        nodes.wait_for_way(remote, "the neighbour", |way| is_via(way, remote, MAC));
    }
    let states: Vec<_> = nodes.underlay.neighbours().map(|hop| (hop.state, hop.mac)).collect();
    assert_eq!(states, [("resolved", Some(MAC)); 2]);
    let listing = nodes.ours.run("ip neigh show dev up0");
    assert_eq!(listing.matches("managed").count(), 2, "{listing}");

    nodes.theirs.ip("link set up0 address 02:00:00:00:00:03");
    let mac = MacAddress::new([2, 0, 0, 0, 0, 3]);
    for remote in THEIR_ADDRESSES {
        nodes.wait_for_way(remote, "the new MAC address", |way| is_via(way, remote, mac));
    }
}

#[test]
fn another_gateway_is_followed_and_the_former_one_let_go() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.theirs.ip("addr add 192.0.2.3/24 dev up0");
    nodes.target(&["198.51.100.7"]);
    let no_route = Way::Unresolved(Obstacle::NoRoute);
    nodes.wait_for_way("198.51.100.7", "no route", |way| *way == no_route);
    nodes.ours.ip("route add 198.51.100.0/24 via 192.0.2.2");
    nodes.wait_for_way("198.51.100.7", "the route", |way| is_via(way, "192.0.2.2", MAC));
    nodes.ours.ip("route replace 198.51.100.0/24 via 192.0.2.3");
    nodes.wait_for_way("198.51.100.7", "the other gateway", |way| is_via(way, "192.0.2.3", MAC));
    assert_eq!(nodes.underlay.neighbours().count(), 2, "routes flap: it is kept for a while");
    nodes.wait_for("the end of the former gateway", |nodes| {
        nodes.underlay.neighbours().count() == 1
    });
    let listing = nodes.ours.run("ip neigh show dev up0 192.0.2.2");
    assert!(!listing.contains("managed"), "{listing}");
    nodes.ours.ip("route replace 198.51.100.0/24 via inet6 2001:db8::2");
    nodes.wait_for_way("198.51.100.7", "a gateway of the other family", |way| {
        is_via(way, "2001:db8::2", MAC)
    });
    nodes.ours.ip("route del 198.51.100.0/24");
    nodes.wait_for_way("198.51.100.7", "no route", |way| *way == no_route);
}

#[test]
fn a_link_that_flaps_is_down_and_then_resolved_again() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&["192.0.2.2"]);
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    for _ in 0..3 {
        nodes.theirs.ip("link set up0 down");
        nodes.wait_for_way("192.0.2.2", "the link to be down", |way| {
            matches!(way, Way::Unresolved(Obstacle::LinkDown { .. }))
        });
        nodes.theirs.ip("link set up0 up");
        nodes.wait_for_way("192.0.2.2", "the link to be up", |way| is_via(way, "192.0.2.2", MAC));
        nodes.ours.ip("link set up0 down");
        nodes.wait_for_way("192.0.2.2", "the route to be gone", |way| {
            matches!(way, Way::Unresolved(_))
        });
        nodes.ours.ip("link set up0 up");
        nodes
            .wait_for_way("192.0.2.2", "the route to be back", |way| is_via(way, "192.0.2.2", MAC));
    }
}

#[test]
fn a_link_that_is_back_is_looked_at_at_once() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&["192.0.2.2"]);
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    // No interval goes by from here on: what is not looked at at once is not looked at.
    nodes.frozen = Some(Instant::now());
    for _ in 0..3 {
        for namespace in ["theirs", "ours"] {
            let of = |nodes: &Nodes, command: &str| match namespace {
                "theirs" => nodes.theirs.ip(command),
                _ => nodes.ours.ip(command),
            };
            of(&nodes, "link set up0 down");
            nodes.wait_for_way("192.0.2.2", "the way to be gone", |way| {
                matches!(way, Way::Unresolved(_))
            });
            of(&nodes, "link set up0 up");
            nodes.wait_for_way("192.0.2.2", "the way", |way| is_via(way, "192.0.2.2", MAC));
        }
    }
}

#[test]
fn routes_are_looked_at_at_once() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&["198.51.100.7", "2001:db8:1::7", "192.0.2.2"]);
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    nodes.frozen = Some(Instant::now());
    for round in 0..3 {
        for (remote, prefix, gateway) in [
            ("198.51.100.7", "198.51.100.0/24", "192.0.2.2"),
            ("2001:db8:1::7", "2001:db8:1::/48", "2001:db8::2"),
            ("198.51.100.7", "default", "192.0.2.2"),
        ] {
            nodes.ours.ip(&format!("route add {prefix} via {gateway}"));
            nodes.wait_for_way(remote, &format!("{prefix} {round}"), |way| {
                is_via(way, gateway, MAC)
            });
            nodes.ours.ip(&format!("route del {prefix} via {gateway}"));
            nodes
                .wait_for_way(remote, "no route", |way| *way == Way::Unresolved(Obstacle::NoRoute));
        }
    }
}

#[test]
fn a_next_hop_that_is_forgotten_keeps_its_mac_address_until_it_has_failed() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&THEIR_ADDRESSES);
    for remote in THEIR_ADDRESSES {
        nodes.wait_for_way(remote, "the neighbour", |way| is_via(way, remote, MAC));
    }
    for _ in 0..5 {
        for remote in THEIR_ADDRESSES {
            nodes.seen.clear();
            nodes.ours.ip(&format!("neigh del {remote} dev up0"));
            // An event that comes after those of the neighbour, so they were all taken in.
            nodes.ours.ip("link set up0 mtu 1400");
            nodes.ours.ip("link set up0 mtu 1500");
            nodes.wait_for("the MTU", |nodes| has_told_mtu(nodes, 1500));
            let is_lost =
                |change: &Change| matches!(change, Change::Way { way: Way::Unresolved(_), .. });
            assert!(!nodes.seen.iter().any(is_lost), "{:?}", nodes.seen);
        }
    }
    for (remote, length) in THEIR_ADDRESSES.into_iter().zip([24, 64]) {
        nodes.theirs.ip(&format!("addr del {remote}/{length} dev up0"));
        nodes.ours.ip(&format!("neigh del {remote} dev up0"));
        nodes.wait_for("the neighbour to be asked", |nodes| is_asked(nodes, remote));
        assert!(is_via(nodes.way(remote), remote, MAC), "{:?}", nodes.way(remote));
        nodes
            .wait_for_way(remote, "the neighbour to fail", |way| matches!(way, Way::Unresolved(_)));
        nodes.theirs.ip(&format!("addr add {remote}/{length} dev up0"));
        nodes.wait_for_way(remote, "the neighbour", |way| is_via(way, remote, MAC));
    }
}

#[test]
fn a_next_hop_is_kept_while_it_is_asked_for_again_but_not_for_good() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    // The kernel goes on asking for longer than we wait.
    nodes.ours.sysctl("net.ipv4.neigh.up0.mcast_solicit", "30");
    nodes.target(&["192.0.2.2"]);
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    nodes.theirs.ip("addr del 192.0.2.2/24 dev up0");
    nodes.frozen = Some(Instant::now());
    nodes.ours.ip("neigh del 192.0.2.2 dev up0");
    nodes.wait_for("the neighbour to be asked", |nodes| is_asked(nodes, "192.0.2.2"));
    assert!(is_via(nodes.way("192.0.2.2"), "192.0.2.2", MAC));
    nodes.frozen = nodes.frozen.map(|then| then + NEIGHBOUR_PENDING_MAX);
    nodes.wait_for_way("192.0.2.2", "the limit", |way| {
        matches!(way, Way::Unresolved(Obstacle::NeighbourPending { .. }))
    });
}

#[test]
fn a_next_hop_without_use_is_kept_for_a_while() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&THEIR_ADDRESSES);
    for remote in THEIR_ADDRESSES {
        nodes.wait_for_way(remote, "the neighbour", |way| is_via(way, remote, MAC));
    }
    nodes.frozen = Some(Instant::now());
    nodes.target(&[]);
    nodes.wait_for("nothing", |_| true);
    assert_eq!(managed(&nodes), 2);
    // Back in time: it is used, and stays.
    nodes.target(&["192.0.2.2"]);
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    nodes.frozen = nodes.frozen.map(|then| then + Duration::from_mins(1));
    nodes.wait_for("the release", |nodes| nodes.underlay.neighbours().count() == 1);
    assert_eq!(managed(&nodes), 1);
}

#[test]
fn the_mtu_of_a_route_is_that_of_the_way() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    let ways = [("198.51.100.7", "192.0.2.2"), ("2001:db8:1::7", "2001:db8::2")];
    nodes.target(&ways.map(|(remote, _)| remote));
    for (remote, gateway) in ways {
        for (option, mtu_bytes) in [("", 1500), ("mtu 1380", 1380), ("mtu 9000", 1500)] {
            nodes.ours.ip(&format!("route replace {remote} via {gateway} {option}"));
            nodes.wait_for_way(remote, "the MTU", |way| has_mtu(way, mtu_bytes));
        }
    }
}

#[test]
fn a_path_mtu_that_the_kernel_learnt_is_that_of_the_way() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    // A node behind a router whose far link carries less.
    let far = Namespace::create("far");
    join((&nodes.theirs, "far0"), (&far, "far0"), 1, 1500);
    let (router, ours) = (&nodes.theirs, &nodes.ours);
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        router.sysctl(key, "1");
    }
    let ways = [
        ("198.51.100.7", "198.51.100.1", 24, "192.0.2.2"),
        ("2001:db8:1::7", "2001:db8:1::1", 64, "2001:db8::2"),
    ];
    for (remote, router_address, length, gateway) in ways {
        router.ip(&format!("addr add {router_address}/{length} dev far0 nodad"));
        far.ip(&format!("addr add {remote}/{length} dev far0 nodad"));
        far.ip(&format!("route add default via {router_address}"));
        ours.ip(&format!("route add {remote} via {gateway}"));
    }
    router.ip("link set far0 mtu 1300");
    nodes.target(&ways.map(|(remote, ..)| remote));
    for (remote, _, _, gateway) in ways {
        nodes
            .wait_for_way(remote, "the way", |way| is_via(way, gateway, MAC) && has_mtu(way, 1500));
        // The first is answered with an error that the kernel learns from.
        let deadline = Instant::now() + PATIENCE;
        let command = format!("ping -c 1 -W 1 -M do -s 1400 {remote}");
        while !nodes.ours.run(&format!("ip route get {remote}")).contains("mtu 1300") {
            assert!(Instant::now() < deadline, "the kernel learns nothing");
            nodes.ours.try_run(&command);
        }
        nodes.wait_for_way(remote, "the path MTU", |way| has_mtu(way, 1300));
    }
}

#[test]
fn a_silent_neighbour_is_failed_until_it_answers() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&["192.0.2.9"]);
    nodes.wait_for_way("192.0.2.9", "the neighbour to fail", |way| {
        matches!(way, Way::Unresolved(Obstacle::NeighbourFailed { .. }))
    });
    nodes.theirs.ip("addr add 192.0.2.9/24 dev up0");
    nodes.wait_for_way("192.0.2.9", "the neighbour", |way| is_via(way, "192.0.2.9", MAC));
}

#[test]
fn a_static_neighbour_stays_static() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.ours.ip("neigh add 192.0.2.8 lladdr 02:00:00:00:00:08 dev up0 nud permanent");
    let mac = MacAddress::new([2, 0, 0, 0, 0, 8]);
    nodes.target(&["192.0.2.8"]);
    nodes.wait_for_way("192.0.2.8", "the neighbour", |way| is_via(way, "192.0.2.8", mac));
    nodes.target(&[]);
    nodes.wait_for("its release", |nodes| nodes.underlay.neighbours().count() == 0);
    let listing = nodes.ours.run("ip neigh show dev up0 192.0.2.8");
    assert!(listing.contains("PERMANENT"), "{listing}");
}

#[test]
fn an_own_address_is_no_way_and_an_mtu_and_the_end_of_an_interface_are_told() {
    skip_unless_namespaces!();
    let mut nodes = Nodes::create();
    nodes.target(&["192.0.2.1", "192.0.2.2"]);
    nodes.wait_for_way("192.0.2.1", "local", |way| *way == Way::Unresolved(Obstacle::Local));
    nodes.wait_for_way("192.0.2.2", "the neighbour", |way| is_via(way, "192.0.2.2", MAC));
    nodes.ours.ip("link set up0 mtu 1400");
    nodes.wait_for("the MTU", |nodes| has_told_mtu(nodes, 1400));
    nodes.wait_for_way("192.0.2.2", "the MTU", |way| has_mtu(way, 1400));
    nodes.ours.ip("link del up0");
    nodes.wait_for("the end", |nodes| {
        nodes.seen.iter().any(
            |change| matches!(change, Change::InterfaceGone { interface, .. } if interface == "up0"),
        )
    });
    nodes.wait_for_way("192.0.2.2", "no route", |way| *way == Way::Unresolved(Obstacle::NoRoute));
}
