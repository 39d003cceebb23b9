//! What becomes of changes when the kernel cannot be asked.

use std::net::Ipv4Addr;

use super::*;

#[test]
fn what_was_found_before_an_error_is_told_after_it() {
    let mut underlay = Underlay::open().unwrap();
    let (interface_index, link) = underlay.links.first_key_value().unwrap();
    let (interface_index, mut link) = (*interface_index, link.clone());
    let remotes = ["127.0.0.1", "127.0.0.2"].map(|remote| remote.parse::<IpAddr>().unwrap());
    underlay.set_targets(remotes);
    let now = Instant::now();

    let kernel = mem::replace(&mut underlay.kernel, Kernel::connect_to_nobody().unwrap());
    link.mtu_bytes += 1;
    let mtu = Change::Mtu { interface_index, mtu_bytes: link.mtu_bytes };
    underlay.take_in(Event::Link(interface_index, link));
    underlay.set_way(remotes[0], Way::Unresolved(Obstacle::NoRoute));
    assert!(underlay.poll(now).is_err());
    assert!(underlay.poll(now).is_err());

    underlay.kernel = kernel;
    let changes = underlay.poll(now + RESOLVE_ALL_INTERVAL).unwrap();
    assert!(changes.contains(&mtu), "{changes:?}");
    // Both ways are looked at again, also that which was found before the error.
    for remote in remotes {
        let way = Way::Unresolved(Obstacle::Local);
        assert_eq!(underlay.way(remote), Some(&way));
        assert!(changes.contains(&Change::Way { remote, way }), "{changes:?}");
    }
    assert_eq!(underlay.poll(now + RESOLVE_ALL_INTERVAL).unwrap(), []);
}

#[test]
fn what_was_missed_is_found_by_comparison() {
    let mut underlay = Underlay::open().unwrap();
    let (index, link) = underlay.links.first_key_value().unwrap();
    let (index, link) = (*index, link.clone());
    let shrunk = Link { mtu_bytes: link.mtu_bytes - 1, ..link.clone() };
    underlay.links.insert(index, shrunk);
    underlay.links.insert(u32::MAX, Link { name: "gone0".to_owned(), ..link.clone() });
    underlay.take_in(Event::Lost);
    let changes = underlay.poll(Instant::now()).unwrap();
    assert!(changes.contains(&Change::Mtu { interface_index: index, mtu_bytes: link.mtu_bytes }));
    let gone = Change::InterfaceGone { interface_index: u32::MAX, interface: "gone0".to_owned() };
    assert!(changes.contains(&gone), "{changes:?}");
}

const GATEWAY: NeighbourKey = (u32::MAX, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)));
const RESOLVED: NeighbourEntry = NeighbourEntry::Resolved(MacAddress::new([2; 6]));

/// An underlay all of whose targets are behind one gateway.
fn behind_gateway(targets: usize) -> Underlay {
    let mut underlay = Underlay::open().unwrap();
    underlay.neighbours.know(GATEWAY, RESOLVED);
    for remote in (0..).take(targets) {
        let remote = Ipv4Addr::from_bits(0xc633_6400 + remote);
        let target = Target { route: Some(GATEWAY), way: Way::Unresolved(Obstacle::Unknown) };
        underlay.targets.insert(remote.into(), target);
    }
    underlay
}

#[test]
fn a_neighbour_that_is_as_before_makes_nobody_stale() {
    let mut underlay = behind_gateway(2);
    underlay.take_in(Event::Neighbour(GATEWAY, RESOLVED));
    let other = (GATEWAY.0, IpAddr::from([192, 0, 2, 253]));
    underlay.take_in(Event::Neighbour(other, NeighbourEntry::Failed));
    assert!(underlay.stale_targets.is_empty() && !underlay.is_all_stale);
    for entry in [NeighbourEntry::Resolved(MacAddress::new([4; 6])), NeighbourEntry::Failed] {
        underlay.stale_targets.clear();
        underlay.take_in(Event::Neighbour(GATEWAY, entry));
        assert_eq!(underlay.stale_targets.len(), 2, "{entry:?}");
    }
    // The kernel goes on asking for those that failed.
    underlay.stale_targets.clear();
    underlay.take_in(Event::Neighbour(GATEWAY, NeighbourEntry::Pending));
    assert!(underlay.stale_targets.is_empty());
    let states: Vec<_> = underlay.neighbours().map(|neighbour| neighbour.state).collect();
    assert_eq!(states, ["failed"]);
}

#[test]
fn many_targets_behind_one_next_hop_wait_for_the_interval() {
    for event in [Event::Neighbour(GATEWAY, NeighbourEntry::Failed), Event::NeighbourGone(GATEWAY)]
    {
        let mut underlay = behind_gateway(RESOLVE_AT_ONCE_MAX);
        underlay.take_in(event.clone());
        assert_eq!(underlay.stale_targets.len(), RESOLVE_AT_ONCE_MAX);
        assert!(!underlay.is_all_stale);
        let mut underlay = behind_gateway(RESOLVE_AT_ONCE_MAX + 1);
        underlay.take_in(event);
        assert!(underlay.stale_targets.is_empty() && underlay.is_all_stale);
    }
}
