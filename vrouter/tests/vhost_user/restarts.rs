//! Frontends and engines that are killed in mid-traffic and come back.

use control_api::engine::vhost_user_backend::Mode;

use crate::{
    node::{A, B, Node, Shape},
    skip_unless_testpmd,
    testpmd::{Device, Testpmd},
};

/// Packets that say that traffic goes on.
const SOME: u64 = 1000;

const CLIENT: Device = Device {
    is_packed: false,
    is_mergeable: true,
    is_in_order: false,
    queue_pairs: 1,
    is_server: false,
};

/// A sends without end to B.
fn start_a(node: &Node, device: Device) -> Testpmd {
    let mut a = Testpmd::start(device, &node.socket(A), A, B, "txonly");
    a.wait_for_link();
    a.forward();
    a
}

fn start_b(node: &Node, device: Device) -> Testpmd {
    let mut b = Testpmd::start(device, &node.socket(B), B, A, "rxonly");
    b.wait_for_link();
    b.forward();
    b
}

/// Waits until B has received some more.
fn expect_more(b: &mut Testpmd) {
    let before = b.counts().rx;
    b.wait_for_counts(|counts| counts.rx >= before + SOME);
}

async fn frontends_come_back(device: Device) {
    let mut node = Node::start(Shape { mode: Mode::Server, queue_pairs: 1 }).await;
    let (mut a, mut b) = (start_a(&node, device), start_b(&node, device));
    expect_more(&mut b);
    for _ in 0..2 {
        b.kill();
        let port = node.wait_for(B, "end", |port| port.detail.contains("the last conn")).await;
        assert!(port.detail.starts_with("no frontend connected to /"), "{}", port.detail);
        b = start_b(&node, device);
        expect_more(&mut b);
    }
    a.kill();
    node.wait_for(A, "end", |port| port.detail.contains("the last connection")).await;
    a = start_a(&node, device);
    expect_more(&mut b);
    let socket = node.socket(A);
    // In the middle of it, the port goes; the frontend's rings are given back before.
    node.configure(&[B]).await;
    node.wait_for(B, "the end of the socket", |_| !socket.exists()).await;
    node.configure(&[A, B]).await;
    a.kill();
    a = start_a(&node, device);
    expect_more(&mut b);
    drop((a, b));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_when_killed_frontends_come_back() {
    skip_unless_testpmd!();
    frontends_come_back(CLIENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_when_killed_frontends_with_packed_rings_come_back() {
    skip_unless_testpmd!();
    frontends_come_back(Device { is_packed: true, ..CLIENT }).await;
}

async fn the_engine_comes_back(device: Device) {
    let mut node = Node::start(Shape { mode: Mode::Client, queue_pairs: 1 }).await;
    let (a, mut b) = (start_a(&node, device), start_b(&node, device));
    expect_more(&mut b);
    for _ in 0..2 {
        node.kill_engine();
        node.restart_engine().await;
        node.wait_for_rings(B).await;
        expect_more(&mut b);
    }
    drop((a, b));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_when_a_killed_engine_comes_back() {
    skip_unless_testpmd!();
    the_engine_comes_back(Device { is_server: true, ..CLIENT }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_over_packed_rings_when_a_killed_engine_comes_back() {
    skip_unless_testpmd!();
    the_engine_comes_back(Device { is_server: true, is_packed: true, ..CLIENT }).await;
}
