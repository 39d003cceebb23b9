//! What becomes of changes when the kernel cannot be asked.

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
