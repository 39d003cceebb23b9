//! Through the engine itself, over AF_XDP at every port: what the generator counts and what the
//! engine counts is the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use control_api::engine as api;
use perf::traffic;
use serde_json::json;
use vrouter::{
    config::Batch,
    engine::{Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::RegionConfig,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::af_xdp::AfXdpOpener,
    stats::PortTotals,
    trace::DropTrace,
};

use crate::{
    namespace::{Namespace, join},
    row, silence, skip_unless_namespaces,
};

/// The engine's ends of the cables, and the generator's.
const CABLES: [(&str, &str, &str); 3] = [
    ("uplink", "up0", "wire0"),
    ("default/pod10", "veth10", "eth10"),
    ("default/pod11", "veth11", "eth11"),
];

/// A node and its surroundings, which are the generator's.
struct Site {
    node: Namespace,
    around: Namespace,
}

impl Site {
    fn create() -> Self {
        let (node, around) = (Namespace::create("node"), Namespace::create("around"));
        silence(&node);
        silence(&around);
        for (_, end, far_end) in CABLES {
            join((&node, end), (&around, far_end), 1, 1600);
        }
        Self { node, around }
    }

    /// Runs an engine while `work` goes on; tells what all of its ports counted.
    fn with_engine(&self, work: impl FnOnce()) -> PortTotals {
        let (is_over, (ready, is_ready)) = (AtomicBool::new(false), channel());
        thread::scope(|scope| {
            let engine = scope.spawn(|| self.node.inside(|| run(&ready, &is_over)));
            is_ready.recv().unwrap();
            let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            is_over.store(true, Relaxed);
            let totals = engine.join().unwrap();
            work.unwrap_or_else(|_| panic!("the engine counted {totals:?}"));
            totals
        })
    }

    fn tx(&self, interface: &str) -> String {
        format!("--tx af_xdp:{interface},netns={}", self.around.name())
    }

    fn rx(&self, interface: &str) -> String {
        format!("--rx af_xdp:{interface},netns={}", self.around.name())
    }
}

/// An engine in the calling thread's namespace, until it is over.
fn run(ready: &Sender<()>, is_over: &AtomicBool) -> PortTotals {
    let flows = flowtable::Config {
        ipv4_connections_max: 1 << 12,
        ipv6_connections_max: 1 << 12,
        fragments_max: 1 << 8,
        hash_key: [1, 2],
        memory: flowtable::Memory::Heap,
        tracking: flowtable::Tracking::default(),
    };
    let flows = Arc::new(Flows::create(&flows).unwrap());
    let config = EngineConfig {
        workers: vec![WorkerPlace::default()],
        idle: IdleMode::Adaptive,
        region: RegionConfig { frame_count: 16_384, frame_bytes: 2048, huge_pages: false },
    };
    let mut engine = Engine::start(
        &config,
        Arc::clone(&flows),
        |depot| Box::new(AfXdpOpener::new(Arc::clone(depot.region()), None)),
        |worker, snapshots| {
            Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default())
        },
    )
    .unwrap();
    let mut batch = Batch::new(1, true);
    batch.push(api::ObjectBatch { upserts: objects(), deletes: vec![] }).unwrap();
    let accepted = engine.accept(batch).unwrap();
    let (uplink, _) = engine.config().port_by_name("uplink").unwrap();
    let (remote, adjacency) = traffic::adjacency(uplink);
    engine.set_adjacency(remote, adjacency);
    assert_eq!(engine.put_in_force(accepted).unwrap().port_errors, []);
    ready.send(()).unwrap();
    while !is_over.load(Relaxed) {
        engine.tick(|_| {});
        thread::sleep(Duration::from_millis(1));
    }
    let stopped = engine.stop().unwrap();
    assert_eq!((stopped.stats.balance().under_way(), stopped.frames_missing), (0, 0));
    stopped.stats.all_ports()
}

/// A node with two pods and a peer, whose ports are the cables.
fn objects() -> Vec<api::Object> {
    let mut objects = traffic::objects(2);
    for object in &mut objects {
        if let Some(api::object::Kind::Port(port)) = &mut object.kind {
            let (_, end, _) = CABLES.iter().find(|(name, ..)| *name == port.name).unwrap();
            let backend = api::AfXdpBackend { interface: (*end).into(), ..Default::default() };
            port.backend = Some(api::port::Backend::AfXdp(backend));
        }
    }
    objects
}

/// Sends packets of 200 flows through the engine, and compares what both count: fewer than any ring
/// on the way holds, so that none is lost to a thread that is held up.
fn pass(site: &Site, tx: &str, rx: &str, addresses: &str) {
    let totals = site.with_engine(|| {
        let ports = format!("{} {}", site.tx(tx), site.rx(rx));
        let options = "--packets 1200 --rate 5kpps --frame imix --flows 200";
        let row = row(&format!("{ports} {addresses} {options}"));
        let lost_by_sink = row["lost_by_sink"].as_u64().unwrap();
        assert_eq!(row["received"], json!(1200 - lost_by_sink), "{row:#}");
        for count in ["reordered", "duplicated", "corrupted", "foreign"] {
            assert_eq!(row[count], json!(0), "{count}: {row:#}");
        }
    });
    assert_eq!((totals.rx_packets, totals.tx_packets), (1200, 1200), "{totals:?}");
}

/// The pods' MAC addresses are those of their IPv4 addresses, as are the gateway's and the VTEPs'.
const POD_TO_GATEWAY: &str = "--source-mac 0a:58:0a:f4:01:0a --destination-mac 0a:58:0a:f4:01:01";

#[test]
fn packets_from_pod_to_pod_are_counted_alike() {
    skip_unless_namespaces!();
    let site = Site::create();
    for ends in [
        "--source 10.244.1.10 --destination 10.244.1.11",
        "--source fd00:10:244:1::a --destination fd00:10:244:1::b",
    ] {
        pass(&site, "eth10", "eth11", &format!("{POD_TO_GATEWAY} {ends}"));
    }
}

#[test]
fn packets_into_a_tunnel_are_counted_alike() {
    skip_unless_namespaces!();
    let ends = "--source 10.244.1.10 --destination 10.244.2.7";
    pass(&Site::create(), "eth10", "wire0", &format!("{POD_TO_GATEWAY} {ends}"));
}

#[test]
fn packets_out_of_a_tunnel_are_counted_alike() {
    skip_unless_namespaces!();
    let inner = "--source 10.244.2.7 --destination 10.244.1.11 \
                 --source-mac 0a:58:c0:00:02:02 --destination-mac 0a:58:c0:00:02:01";
    let tunnel = "--vxlan 1 --tunnel-source 192.0.2.2 --tunnel-destination 192.0.2.1 \
                  --tunnel-destination-mac 0a:58:c0:00:02:01";
    pass(&Site::create(), "wire0", "eth11", &format!("{inner} {tunnel}"));
}
