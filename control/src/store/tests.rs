//! Tests of the store and of what it gives out, against a model of sets.

use std::{collections::BTreeSet, slice};

use proptest::prelude::*;
use redb::ReadableTableMetadata;

use super::*;
use crate::{attachment::Means, names::PodName};

#[test]
fn a_record_from_before_there_were_port_types_is_of_a_veth_pair() {
    let mut record = serde_json::to_value(attachment("a")).unwrap();
    assert_eq!(record["means"]["type"], "veth");
    record.as_object_mut().unwrap().remove("means");
    let read: Attachment = serde_json::from_value(record).unwrap();
    assert_eq!(read, attachment("a"));
}

fn attachment(container: &str) -> Attachment {
    let key = AttachmentKey { container_id: container.into(), ifname: "eth0".into() };
    Attachment {
        host_interface: key.host_interface(),
        means: Means::Veth,
        key,
        phase: Phase::Adding,
        network: "vrouter".into(),
        netns: "/run/netns/x".into(),
        pod: PodName::new("default", container),
        addresses: Vec::new(),
        mac: None,
        mtu_bytes: 1450,
        delegate: None,
    }
}

fn plan(ranges: &[&str], reserved: &[(&str, &str)]) -> AddressPlan {
    AddressPlan {
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        reserved: reserved
            .iter()
            .map(|(address, pod)| (address.parse().unwrap(), PodName::new("default", *pod)))
            .collect(),
        foreign: Vec::new(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// How many addresses somebody holds.
fn used(store: &Store) -> u64 {
    let transaction = store.database.begin_read().unwrap();
    transaction.open_table(ADDRESSES).unwrap().len().unwrap()
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn an_attachment_gets_an_address_of_each_family_and_a_mac_from_ipv4() {
    let (_folder, store) = store();
    let plan = plan(&["fd00::/64", "10.0.0.0/24"], &[]);
    let first = store.begin(attachment("a"), &[], &plan).unwrap();
    assert_eq!(texts(&first.addresses), ["fd00::2", "10.0.0.2"]);
    assert_eq!(first.mac.unwrap().to_string(), "0a:58:0a:00:00:02");
    assert_eq!(store.attachments().unwrap()[&first.key], first);
}

#[test]
fn a_freed_address_is_not_given_again_at_once() {
    let (_folder, store) = store();
    let plan = plan(&["10.0.0.0/29"], &[]);
    let mut given = Vec::new();
    for container in ["a", "b", "c", "d", "e", "f"] {
        let attachment = store.begin(attachment(container), &[], &plan).unwrap();
        store.remove(&attachment.key).unwrap();
        given.extend(texts(&attachment.addresses));
    }
    assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
}

#[test]
fn a_manifest_reserves_its_pods_addresses() {
    let (_folder, store) = store();
    let plan = plan(&["10.0.0.0/29", "fd00::/64"], &[("10.0.0.2", "web"), ("10.0.0.4", "db")]);
    assert_eq!(
        texts(&store.begin(attachment("x"), &[], &plan).unwrap().addresses),
        ["10.0.0.3", "fd00::2"]
    );
    assert_eq!(texts(&store.begin(attachment("web"), &[], &plan).unwrap().addresses), ["10.0.0.2"]);
    let error = store.begin(attachment("y"), &["10.0.0.4".parse().unwrap()], &plan).unwrap_err();
    assert!(error.to_string().contains("reserved by the manifest of pod default/db"), "{error}");
}

#[test]
fn an_exhausted_range_is_named_and_nothing_is_kept() {
    let (_folder, store) = store();
    let plan = plan(&["fd00::/64", "10.0.0.0/30"], &[]);
    store.begin(attachment("a"), &[], &plan).unwrap();
    let error = store.begin(attachment("b"), &[], &plan).unwrap_err();
    assert!(error.to_string().contains("all 1 addresses of 10.0.0.0/30"), "{error}");
    assert_eq!(store.attachments().unwrap().len(), 1);
    assert_eq!(used(&store), 2);
}

#[test]
fn addresses_asked_for_must_be_free_and_within_the_range() {
    let (_folder, store) = store();
    let plan = plan(&["10.0.0.0/24"], &[]);
    let ask = |container, address: &str| {
        store.begin(attachment(container), &[address.parse().unwrap()], &plan)
    };
    assert_eq!(texts(&ask("a", "10.0.0.77").unwrap().addresses), ["10.0.0.77"]);
    for (address, word) in
        [("10.0.0.77", "in use by a/eth0"), ("10.9.0.1", "not an address"), ("10.0.0.1", "not an")]
    {
        let error = ask("b", address).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn an_attachment_and_a_port_exist_once() {
    let (_folder, store) = store();
    let plan = plan(&["10.0.0.0/24"], &[]);
    store.begin(attachment("a"), &[], &plan).unwrap();
    let error = store.begin(attachment("a"), &[], &plan).unwrap_err();
    assert!(matches!(error, BeginError::Exists(_)), "{error}");
    let same_pod = Attachment { pod: PodName::new("default", "a"), ..attachment("b") };
    let error = store.begin(same_pod, &[], &plan).unwrap_err();
    assert!(matches!(error, BeginError::PortHeld { .. }), "{error}");
}

#[test]
fn a_damaged_file_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE_NAME), "not a database").unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("drain the node"), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    Ready(u8),
    Remove(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_u8).prop_map(Step::Begin),
        2 => (0..12_u8).prop_map(Step::Ready),
        3 => (0..12_u8).prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// No address is given twice, none is lost, and both hold across restarts.
    #[test]
    fn addresses_are_given_once_and_come_back(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        // 5 addresses, one of them reserved for container 0.
        let plan = plan(&["10.0.0.0/29"], &[("10.0.0.4", "c0")]);
        let mut model: BTreeMap<u8, (IpAddr, Phase)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Begin(index) => {
                    let result = store.begin(attachment(&format!("c{index}")), &[], &plan);
                    let others = model.keys().filter(|other| **other != 0).count();
                    match result {
                        Ok(given) => {
                            prop_assert!(!model.contains_key(&index));
                            let [address] = given.addresses.as_slice() else { panic!("one") };
                            prop_assert!(model.values().all(|(taken, _)| taken != address));
                            prop_assert_eq!(address.to_string() == "10.0.0.4", index == 0);
                            model.insert(index, (*address, Phase::Adding));
                        }
                        Err(BeginError::Exists(_)) => prop_assert!(model.contains_key(&index)),
                        Err(BeginError::Allocate(AllocateError::Exhausted { .. })) => {
                            prop_assert!(others == 4 && index != 0);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Ready(index) => {
                    store.set_phase(&attachment(&format!("c{index}")).key, Phase::Ready).unwrap();
                    if let Some((_, phase)) = model.get_mut(&index) {
                        *phase = Phase::Ready;
                    }
                }
                Step::Remove(index) => {
                    store.remove(&attachment(&format!("c{index}")).key).unwrap();
                    model.remove(&index);
                }
                Step::Reopen => {
                    drop(store);
                    store = Store::open(folder.path()).unwrap();
                }
            }
            let kept: BTreeSet<_> = store
                .attachments()
                .unwrap()
                .into_values()
                .map(|record| (record.key.container_id, record.addresses, record.phase == Phase::Ready))
                .collect();
            let expected: BTreeSet<_> = model
                .iter()
                .map(|(index, (address, phase))| {
                    (format!("c{index}"), vec![*address], *phase == Phase::Ready)
                })
                .collect();
            prop_assert_eq!(kept, expected);
            prop_assert_eq!(used(&store), model.len() as u64);
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_stops_no_other_and_can_be_removed() {
    let (_folder, store) = store();
    let plan = plan(&["10.0.0.0/29"], &[]);
    let bad = store.begin(attachment("bad"), &[], &plan).unwrap().key;
    let transaction = store.database.begin_write().unwrap();
    let key = bad.to_string();
    transaction.open_table(ATTACHMENTS).unwrap().insert(&*key, b"{".as_slice()).unwrap();
    transaction.commit().unwrap();
    let good = store.begin(attachment("good"), &[], &plan).unwrap();
    assert_eq!(
        store.attachments().unwrap().into_keys().collect::<Vec<_>>(),
        slice::from_ref(&good.key)
    );
    assert_eq!(store.attachment(&good.key).unwrap().unwrap().addresses, good.addresses);
    let unreadable: Vec<_> = store.unreadable().unwrap().into_iter().map(|bad| bad.key).collect();
    assert_eq!(unreadable, slice::from_ref(&bad));
    assert!(matches!(store.attachment(&bad), Err(StoreError::Record { .. })));
    assert!(store.begin(attachment("bad"), &[], &plan).is_err());
    store.remove(&bad).unwrap();
    assert_eq!((used(&store), store.unreadable().unwrap().len()), (1, 0));
    store.begin(attachment("bad"), &[], &plan).unwrap();
}
