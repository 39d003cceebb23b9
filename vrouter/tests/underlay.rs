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
use vrouter::underlay::{Change, Obstacle, Underlay, Way};

/// How long a test waits for what must happen: the machine may stall for seconds, and the kernel
/// probes a silent neighbour three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(40);

/// Two nodes on one link, each with an address of both families.
struct Nodes {
    ours: Namespace,
    theirs: Namespace,
    underlay: Underlay,
    seen: Vec<Change>,
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
        Self { ours, theirs, underlay, seen: Vec::new() }
    }

    /// Polls until `happened` says yes.
    fn wait_for(&mut self, what: &str, happened: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.seen.extend(self.underlay.poll(Instant::now()).unwrap());
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

    fn target(&mut self, remotes: &[&str]) {
        self.underlay.set_targets(remotes.iter().map(|remote| remote.parse::<IpAddr>().unwrap()));
    }
}

fn is_via(way: &Way, address: &str, mac: MacAddress) -> bool {
    let address: IpAddr = address.parse().unwrap();
    matches!(way, Way::Resolved(hop)
        if hop.address == address && hop.destination_mac == mac && hop.interface == "up0")
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
    assert_eq!(nodes.underlay.neighbours().count(), 1);
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
    nodes.wait_for("the MTU", |nodes| {
        nodes.seen.iter().any(|change| matches!(change, Change::Mtu { mtu_bytes: 1400, .. }))
    });
    nodes.wait_for_way(
        "192.0.2.2",
        "the MTU",
        |way| matches!(way, Way::Resolved(hop) if hop.mtu_bytes == 1400),
    );
    nodes.ours.ip("link del up0");
    nodes.wait_for("the end", |nodes| {
        nodes.seen.iter().any(
            |change| matches!(change, Change::InterfaceGone { interface, .. } if interface == "up0"),
        )
    });
    nodes.wait_for_way("192.0.2.2", "no route", |way| *way == Way::Unresolved(Obstacle::NoRoute));
}
