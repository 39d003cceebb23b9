//! What the operator sees of a port with and without a frontend, and frontends that misbehave.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use control_api::engine::vhost_user_backend::Mode;

use crate::{
    node::{A, B, Node, Shape},
    skip_unless_testpmd,
    testpmd::{Device, Testpmd},
};

const SERVER: Shape = Shape { mode: Mode::Server, queue_pairs: 1 };

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_up_without_a_frontend_and_says_what_it_waits_for() {
    let mut node = Node::start(SERVER).await;
    let port = node.port(A).await;
    assert_eq!((port.state.as_str(), port.backend.as_str()), ("up", "vhost-user"));
    let socket = node.socket(A);
    assert_eq!(port.detail, format!("no frontend connected to {}", socket.display()));
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    node.stop();

    let mut node = Node::start(Shape { mode: Mode::Client, ..SERVER }).await;
    let socket = node.socket(A);
    let port = node.port(A).await;
    assert_eq!(port.detail, format!("no frontend listens on {} yet", socket.display()));
    assert!(!socket.exists());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_breaks_the_rules_is_sent_away_and_the_next_is_served() {
    skip_unless_testpmd!();
    let mut node = Node::start(SERVER).await;
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "flags"),
        (&[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "4294967295 bytes"),
        (&[99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], "no request 99"),
    ] {
        let mut frontend = UnixStream::connect(node.socket(A)).unwrap();
        frontend.write_all(bytes).unwrap();
        assert_eq!(frontend.read(&mut [0; 16]).unwrap_or(0), 0, "the connection is closed");
        node.wait_for(A, "reason", |port| port.detail.contains(reason)).await;
    }
    // Half a message keeps nobody else waiting but the next frontend of this port.
    let mut half = UnixStream::connect(node.socket(A)).unwrap();
    half.write_all(&[1, 0, 0]).unwrap();
    let device = Device {
        is_packed: false,
        is_mergeable: true,
        is_in_order: false,
        queue_pairs: 1,
        is_server: false,
    };
    let mut b = Testpmd::start(device, &node.socket(B), B, A, "rxonly");
    node.wait_for_rings(B).await;
    drop(half);
    let mut a = Testpmd::start(device, &node.socket(A), A, B, "rxonly");
    b.wait_for_link();
    b.forward();
    a.wait_for_link();
    a.forward_after(1);
    b.wait_for_counts(|counts| counts.rx == 32);
    drop((a, b));
    node.stop();
}
