use std::{collections::BTreeMap, net::IpAddr, ops::ControlFlow};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};

use super::{Fib, GroupIndex, prefix_of};

fn listed(fib: &Fib) -> Vec<(IpNet, GroupIndex)> {
    let mut routes = Vec::new();
    let _ = fib.for_each(|prefix, group| {
        routes.push((prefix, group));
        ControlFlow::Continue(())
    });
    routes
}

/// The obvious longest prefix match: look at every route.
fn naive_lookup(routes: &BTreeMap<IpNet, GroupIndex>, address: IpAddr) -> Option<(u8, GroupIndex)> {
    routes
        .iter()
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .map(|(prefix, group)| (prefix.prefix_len(), *group))
}

/// Addresses that share many leading bits, so that prefixes cover one another.
fn clustered_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|low| IpAddr::from([10, 244, low & 3, low])),
        any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        any::<u16>().prop_map(|low| {
            IpAddr::from((0xfd00_0010_0244_u128 << 80 | u128::from(low)).to_be_bytes())
        }),
        any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (clustered_address(), any::<u8>()).prop_map(|(address, length)| {
        let lengths = if address.is_ipv4() { 33 } else { 129 };
        prefix_of(address, length % lengths)
    })
}

proptest! {
    #[test]
    fn the_fib_agrees_with_a_search_of_all_routes(
        changes in vec((prefix(), any::<bool>(), 0_u32..8), 1..120),
        addresses in vec(clustered_address(), 1..60),
    ) {
        let mut fib = Fib::default();
        let mut model = BTreeMap::new();
        for (prefix, is_removal, group) in changes {
            let group = GroupIndex(group);
            if is_removal {
                prop_assert_eq!(fib.remove(prefix), model.remove(&prefix));
            } else {
                prop_assert_eq!(fib.insert(prefix, group), model.insert(prefix, group));
            }
            prop_assert_eq!(fib.find(prefix), model.get(&prefix).copied());
        }
        prop_assert_eq!(fib.len(), model.len());
        let in_order: Vec<_> = model.iter().map(|(prefix, group)| (*prefix, *group)).collect();
        prop_assert_eq!(listed(&fib), in_order);
        let inside = model.keys().flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
        for address in inside.chain(addresses) {
            let found = fib.lookup(address).map(|found| (found.length, found.group));
            prop_assert_eq!(found, naive_lookup(&model, address));
        }
        for prefix in model.keys() {
            let shorter = model
                .iter()
                .filter(|(other, _)| other.contains(prefix) && *other != prefix)
                .max_by_key(|(other, _)| other.prefix_len());
            let covering = fib.covering(*prefix).map(|found| (found.length, found.group));
            prop_assert_eq!(covering, shorter.map(|(other, group)| (other.prefix_len(), *group)));
        }
    }

    #[test]
    fn a_clone_keeps_what_it_held(before in vec(prefix(), 1..60), after in vec(prefix(), 1..60)) {
        let mut fib = Fib::default();
        for prefix in &before {
            fib.insert(*prefix, GroupIndex(1));
        }
        let kept = fib.clone();
        let held = listed(&kept);
        for (index, prefix) in after.iter().enumerate() {
            if index % 3 == 0 {
                fib.remove(*prefix);
            } else {
                fib.insert(*prefix, GroupIndex(2));
            }
        }
        prop_assert_eq!(listed(&kept), held);
    }
}

#[test]
fn an_empty_fib_after_removals_holds_no_nodes() {
    let mut fib = Fib::default();
    let empty_bytes = fib.memory_bytes();
    let prefixes: Vec<IpNet> =
        ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "fd00::/16", "fd00::1/128"]
            .map(|text| text.parse().unwrap())
            .into();
    for prefix in &prefixes {
        fib.insert(*prefix, GroupIndex(7));
    }
    for prefix in &prefixes {
        assert_eq!(fib.remove(*prefix), Some(GroupIndex(7)));
    }
    assert!(fib.is_empty());
    assert_eq!(fib.memory_bytes(), empty_bytes);
}
