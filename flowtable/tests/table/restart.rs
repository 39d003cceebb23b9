//! A table that outlives those who use it: attaching to its region.

use std::{fs::File, os::unix::fs::FileExt};

use flowtable::{
    Action, Config, ConfigView, CreateTableError, Family, FlowTable, Lookup, Memory, ScopeVersions,
    Tracking,
};

use crate::fixture::{DATAGRAM, Verb, actions, config, inserted, look, udp, udp6};

/// A table in a memfd, and a second descriptor of it. Not on huge pages: a file of those can only
/// be mapped, and a test here writes to it.
fn shared() -> (FlowTable<Verb>, File) {
    let config = Config { memory: Memory::Memfd { huge_pages: false }, ..config(1000) };
    let table = FlowTable::create(&config).unwrap();
    let file = File::from(table.file().unwrap().try_clone_to_owned().unwrap());
    (table, file)
}

#[test]
fn connections_survive_those_who_made_them() {
    let (table, file) = shared();
    let mut worker = table.worker(0).unwrap();
    for number in 0..500 {
        let key = if number % 2 == 0 { udp(number) } else { udp6(number) };
        let flow = inserted(&table, &mut worker, key);
        worker.record(flow, &DATAGRAM, 0);
        if number % 5 == 0 {
            worker.remove(flow);
        } else if number % 7 == 0 {
            worker.revalidate(flow, &actions(2), 2, crate::fixture::SCOPES);
        }
    }
    // The earlier run ends in the middle of things: nothing is given back.
    std::mem::forget(worker);
    std::mem::forget(table);

    let table = FlowTable::<Verb>::attach(file, Tracking::default()).unwrap();
    assert_eq!(table.len(), 400);
    let scopes = ScopeVersions::new(0);
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    for number in 0..500 {
        let key = if number % 2 == 0 { udp(number) } else { udp6(number) };
        for key in [key, key.reversed()] {
            match look(&table, &mut worker, &key, config) {
                Lookup::Hit(flow) => {
                    assert_ne!(number % 5, 0);
                    let version = if number % 7 == 0 { 2 } else { 1 };
                    let recorded = worker.record(flow, &DATAGRAM, 0).unwrap();
                    assert_eq!(recorded.action, actions(version)[flow.direction() as usize]);
                }
                other => assert_eq!((other, number % 5), (Lookup::Miss, 0)),
            }
        }
    }
    table.for_each_connection(0, |view| assert_eq!(view.forward_counters.packets, 2));

    // What was not in use is free again, down to the last one.
    for number in 1000..1600 {
        inserted(&table, &mut worker, udp(number));
        inserted(&table, &mut worker, udp6(number));
        worker.quiesce();
    }
    assert_eq!(table.counters().evicted_oldest, 0);
    assert!(table.len() <= table.capacity(Family::V4) + table.capacity(Family::V6));
}

#[test]
fn a_region_that_is_no_table_or_of_another_kind_is_refused() {
    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(transparent)]
    struct Other(u64);
    impl Action for Other {
        const LAYOUT: u32 = 7;
    }

    let (_table, file) = shared();
    let again = || file.try_clone().unwrap();
    let attached = FlowTable::<Other>::attach(again(), Tracking::default());
    assert!(matches!(attached, Err(CreateTableError::ActionLayout { bytes: 32, .. })));

    file.write_at(&99u64.to_le_bytes(), 8).unwrap();
    let attached = FlowTable::<Verb>::attach(again(), Tracking::default());
    assert!(matches!(attached, Err(CreateTableError::LayoutVersion { version: 99, .. })));

    file.write_at(&[0; 8], 0).unwrap();
    let attached = FlowTable::<Verb>::attach(again(), Tracking::default());
    assert!(matches!(attached, Err(CreateTableError::NotATable)));

    let empty = tempfile();
    let attached = FlowTable::<Verb>::attach(empty, Tracking::default());
    assert!(attached.is_err());
}

fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!("flowtable-{}", std::process::id()));
    let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(&path).unwrap();
    let file = options.unwrap();
    file.set_len(64).unwrap();
    file
}

#[test]
fn noise_in_a_region_makes_no_table_that_misbehaves() {
    let (table, file) = shared();
    let mut worker = table.worker(0).unwrap();
    for number in 0..100 {
        inserted(&table, &mut worker, udp(number));
    }
    drop(worker);
    drop(table);
    // Everything after the header is overwritten with a pattern that looks alive.
    let noise: Vec<u8> =
        (0..1u32 << 16).flat_map(|i| (i | 1).wrapping_mul(0x9e37).to_le_bytes()).collect();
    let end = file.metadata().unwrap().len();
    let mut at = 4096;
    while at < end {
        let rest = usize::try_from(end - at).unwrap_or(usize::MAX).min(noise.len());
        file.write_at(&noise[..rest], at).unwrap_or_default();
        at += noise.len() as u64;
    }
    let table = FlowTable::<Verb>::attach(file, Tracking::default()).unwrap();
    let scopes = ScopeVersions::new(0);
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    for number in 0..1000 {
        look(&table, &mut worker, &udp(number), config);
        worker.quiesce();
    }
    worker.expire(0, u32::MAX);
}
