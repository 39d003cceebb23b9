//! Traffic between two testpmds through the engine, in each shape of device that there is.

use control_api::engine::vhost_user_backend::Mode;

use crate::{
    node::{A, B, Node, Shape},
    skip_unless_testpmd,
    testpmd::{BURST, Device, Testpmd},
};

/// Bursts a queue that fit any ring, so that none is lost.
const BURSTS: u32 = 4;

/// Packets that go many times around the rings.
const MANY: u64 = 20_000;

const PLAIN: Device = Device {
    is_packed: false,
    is_mergeable: true,
    is_in_order: false,
    queue_pairs: 1,
    is_server: false,
};

/// What A sends comes to B, and what B sends back comes to A, packet for packet.
async fn exchange(device: Device) {
    let mode = if device.is_server { Mode::Client } else { Mode::Server };
    let mut node = Node::start(Shape { mode, queue_pairs: device.queue_pairs }).await;
    let mut a = Testpmd::start(device, &node.socket(A), A, B, "rxonly");
    let mut b = Testpmd::start(device, &node.socket(B), B, A, "5tswap");
    for guest in [A, B] {
        let detail = node.wait_for_rings(guest).await;
        assert_eq!(detail.starts_with("packed ring"), device.is_packed, "{detail}");
        assert_eq!(detail.contains("mergeable"), device.is_mergeable, "{detail}");
    }
    b.wait_for_link();
    b.forward();
    a.wait_for_link();
    a.forward_after(BURSTS);
    let sent = u64::from(BURSTS) * BURST * u64::from(device.queue_pairs);
    let a_counts = a.wait_for_counts(|counts| counts.rx == sent);
    let b_counts = b.wait_for_counts(|counts| counts.tx == sent);
    assert_eq!((a_counts.tx, b_counts.rx), (sent, sent));
    for guest in [A, B] {
        let port = node
            .wait_for(guest, "counts", |port| (port.rx_packets, port.tx_packets) == (sent, sent))
            .await;
        assert_eq!((port.forwarded, port.dropped), (sent, 0), "{:?}", node.drops().await);
    }
    drop((a, b));
    node.stop();
}

/// A sends as fast as it can, more than B can be given: all are counted, once.
async fn flood(device: Device) {
    let mut node = Node::start(Shape { mode: Mode::Server, queue_pairs: 1 }).await;
    let mut a = Testpmd::start(device, &node.socket(A), A, B, "txonly");
    let mut b = Testpmd::start(device, &node.socket(B), B, A, "rxonly");
    b.wait_for_link();
    b.forward();
    a.wait_for_link();
    a.forward();
    b.wait_for_counts(|counts| counts.rx >= MANY);
    a.stop();
    let sent = a.counts().tx;
    let from_a = node.wait_for(A, "all packets", |port| port.rx_packets == sent).await;
    assert_eq!(from_a.forwarded + from_a.dropped, sent);
    let received = b.wait_for_counts(|counts| counts.rx == from_a.forwarded).rx;
    assert_eq!(node.port(B).await.tx_packets, received);
    let drops = node.drops().await;
    let full = drops.iter().filter(|(reason, _)| reason == "tx_ring_full");
    assert_eq!(full.map(|(_, packets)| packets).sum::<u64>(), from_a.dropped, "{drops:?}");
    drop((a, b));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packet_of_a_flood_is_received_or_counted_as_dropped() {
    skip_unless_testpmd!();
    flood(PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packet_of_a_flood_through_packed_rings_is_received_or_counted_as_dropped() {
    skip_unless_testpmd!();
    flood(Device { is_packed: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn split_rings_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rings_without_mergeable_buffers_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { is_mergeable: false, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_rings_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { is_packed: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_rings_in_order_without_mergeable_buffers_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { is_packed: true, is_mergeable: false, is_in_order: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn split_rings_in_order_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { is_in_order: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_queue_pairs_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { queue_pairs: 4, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_packed_queue_pairs_carry_packets_both_ways() {
    skip_unless_testpmd!();
    exchange(Device { queue_pairs: 4, is_packed: true, ..PLAIN }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_listens_is_connected_to() {
    skip_unless_testpmd!();
    exchange(Device { is_server: true, ..PLAIN }).await;
}
