//! AF_XDP ports that are taken away while their rings are full: every packet is counted once, and
//! what counts as sent has arrived.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use vrouter::{
    burst::Burst,
    clock::{Clock, Now},
    drops::DropReason,
    idle::IdleMode,
    memory::FramePool,
    outbox::Outbox,
    placement::WorkerPlace,
    port::{PortOpener, PortRef, Steering},
    runtime::{Event, Runtime, RuntimeConfig},
    stats::WorkerStats,
    worker::Process,
};

use crate::{
    namespace::{Namespace, join},
    numbered_frame,
    ports::{Memory, PATIENCE, Port, packet, request, wait_for},
    redirected, skip_unless_namespaces,
};

const IN: PortRef = PortRef { index: 1, generation: 1 };
const OUT: PortRef = PortRef { index: 2, generation: 1 };

/// Sends all to one port; waits at its gate, if that is shut, after it has received.
struct Gated {
    is_shut: Arc<AtomicBool>,
    is_waiting: Arc<AtomicBool>,
}

impl Process for Gated {
    fn refresh(&mut self) -> u64 {
        1
    }

    fn process(
        &mut self,
        _ingress: PortRef,
        burst: &mut Burst,
        _now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        while self.is_shut.load(SeqCst) {
            self.is_waiting.store(true, SeqCst);
            thread::yield_now();
        }
        for packet in burst.drain(..) {
            let ingress = packet.ingress;
            if let Err(packet) = outbox.push(OUT.index, packet) {
                stats.dropped(ingress, DropReason::RouteNone, 1);
                pool.free_packet(packet);
            }
        }
    }

    fn housekeep(&mut self, _now: Now) {}
}

/// A namespace whose stack says nothing unasked.
fn silent(role: &str) -> Namespace {
    let namespace = Namespace::create(role);
    for key in ["all", "default"] {
        namespace.sysctl(&format!("net.ipv6.conf.{key}.disable_ipv6"), "1");
    }
    namespace
}

/// Sends so many frames, one at a time.
fn send(port: &mut Port, memory: &mut Memory, count: u64) {
    for _ in 0..count {
        let mut burst = Burst::new();
        burst.push(packet(&mut memory.pool, &numbered_frame(0, 64)));
        port.send(0, &mut memory.pool, &mut burst);
    }
}

#[test]
fn a_removed_ports_packets_are_sent_or_dropped_and_what_is_sent_arrives() {
    skip_unless_namespaces!();
    let [ours, source, sink] = ["ours", "source", "sink"].map(silent);
    join((&ours, "in0"), (&source, "far0"), 1, 1500);
    join((&ours, "out0"), (&sink, "far0"), 1, 1500);
    let mut memory = Memory::new(8192);
    let mut sender = Port::open(&mut memory, &request(&source, "far0", None));
    let mut receiver = Port::open(&mut memory, &request(&sink, "far0", None));
    let (is_shut, is_waiting) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let config = RuntimeConfig { workers: vec![WorkerPlace::default()], idle: IdleMode::Adaptive };
    let mut runtime = Runtime::start(&config, &memory.depot, Clock::start(), |_| {
        Ok(Gated { is_shut: Arc::clone(&is_shut), is_waiting: Arc::clone(&is_waiting) })
    })
    .unwrap();
    for (port, interface) in [(IN, "in0"), (OUT, "out0")] {
        let mut asked = request(&ours, interface, None);
        asked.port = port;
        let opened = memory.opener.open(&asked, &mut memory.pool).unwrap();
        runtime.attach(port, opened).unwrap();
        runtime.settle(Instant::now() + PATIENCE).unwrap();
        runtime.steer(port, &Steering::Everything).unwrap();
    }

    send(&mut sender, &mut memory, 10);
    let mut arrived = 0;
    wait_for("what is sent to arrive", || {
        let mut burst = Burst::new();
        arrived += receiver.poll(&mut memory.pool, &mut burst);
        burst.into_iter().for_each(|packet| memory.pool.free_packet(packet));
        arrived == 10
    });
    // The kernel takes nothing from the transmit ring of an interface that is down.
    ours.ip("link set out0 down");
    send(&mut sender, &mut memory, 20);
    let stats = runtime.stats().clone();
    wait_for("all to be received", || stats.port(IN).rx_packets == 30);
    // The worker holds one packet, and the others have to stay in the receive ring.
    is_shut.store(true, SeqCst);
    send(&mut sender, &mut memory, 1);
    wait_for("the worker to wait", || is_waiting.load(SeqCst));
    send(&mut sender, &mut memory, 50);
    wait_for("the ring to hold the rest", || redirected(&ours, "in0") == 81);
    runtime.detach(IN);
    runtime.detach(OUT);
    is_shut.store(false, SeqCst);
    let mut released = Vec::new();
    wait_for("both ports to be released", || {
        runtime.tick(|event| {
            if let Event::Released(port) = event {
                released.push(port);
            }
        });
        released.len() == 2
    });

    receiver.poll_aside(&mut memory.pool);
    let (from, to) = (stats.port(IN), stats.port(OUT));
    assert_eq!((from.rx_packets, from.forwarded), (81, 10), "{from:?}");
    assert_eq!(from.dropped_for(DropReason::RxPortClosed), 50, "{from:?}");
    assert_eq!(from.dropped_for(DropReason::TxPortClosed), 21, "{from:?}");
    assert_eq!((to.tx_packets, to.tx_bytes), (arrived as u64, 640), "{to:?}");
    assert_eq!((from.under_way(), stats.balance().under_way()), (0, 0));
    sender.close(&mut memory.pool);
    receiver.close(&mut memory.pool);
    drop(runtime.stop().unwrap());
    memory.assert_all_frames_are_back();
}
