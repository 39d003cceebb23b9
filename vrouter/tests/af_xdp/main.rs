//! AF_XDP ports on veth pairs, with the kernel or another port at the far end.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/ports.rs"]
mod ports;
mod removal;

use std::{net::UdpSocket, sync::Arc, time::Duration};

use namespace::{Namespace, join};
use ports::{Memory, Port, bytes_of, packet, request, wait_for};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vrouter::{
    burst::{BURST_PACKETS_MAX, Burst},
    check_host::{HostQuestion, check_host},
    drops::DropReason,
    port::{PortQueue, PortRef},
    stats::{EngineStats, PortTotals, WorkerStats},
};

const FRAMES: u32 = 8192;

/// A frame with a number in it; the ethertype is one for experiments (IEEE 802), so that no stack
/// answers.
fn numbered_frame(number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[..6].copy_from_slice(&[0x02, 0, 0, 0, 0, 2]);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    for (index, byte) in frame.iter_mut().enumerate().skip(18) {
        *byte = u8::try_from((index + number as usize) % 251).unwrap();
    }
    frame
}

fn number_of(frame: &[u8]) -> Option<u32> {
    let is_ours = frame.get(12..14) == Some(&[0x88, 0xb5]);
    is_ours.then(|| u32::from_be_bytes(frame[14..18].try_into().unwrap()))
}

/// Two ports that face each other, each in a namespace.
fn facing_ports(queues: u16, mtu: u32) -> (Namespace, Namespace, Memory, Port, Port) {
    let (left, right) = (Namespace::create("left"), Namespace::create("right"));
    join((&left, "left0"), (&right, "right0"), u32::from(queues), mtu);
    let mut memory = Memory::new(FRAMES);
    let left_port = Port::open(&mut memory, &request(&left, "left0", Some(queues)));
    let right_port = Port::open(&mut memory, &request(&right, "right0", Some(queues)));
    (left, right, memory, left_port, right_port)
}

/// Sends `count` numbered frames from one port to the other, with a window, and checks each.
fn carry(memory: &mut Memory, from: &mut Port, to: &mut Port, count: u32, bytes: usize) {
    // Below the frames that a guest's queue keeps ready, however many segments a frame takes.
    let window = u32::try_from(256 / bytes.div_ceil(1024)).unwrap();
    let (mut sent, mut received) = (0, 0);
    let mut burst = Burst::new();
    wait_for("all frames", || {
        while sent < count && sent - received < window && burst.len() < BURST_PACKETS_MAX {
            burst.push(packet(&mut memory.pool, &numbered_frame(sent, bytes)));
            sent += 1;
        }
        from.queues[0].tx_burst(&mut memory.pool, &mut burst, &from.stats);
        from.poll_aside(&mut memory.pool);
        let mut arrived = Burst::new();
        to.poll(&mut memory.pool, &mut arrived);
        for packet in arrived {
            let data = bytes_of(&packet, memory.pool.region());
            if let Some(number) = number_of(&data) {
                assert_eq!(number, received, "frames stay in order");
                assert_eq!(data, numbered_frame(number, bytes));
                received += 1;
            }
            memory.pool.free_packet(packet);
        }
        received == count
    });
    for packet in burst {
        memory.pool.free_packet(packet);
    }
}

#[test]
fn a_hundred_thousand_frames_pass_without_loss_and_every_frame_comes_back() {
    skip_unless_namespaces!();
    let (_left, _right, mut memory, mut left, mut right) = facing_ports(1, 1500);
    assert_eq!(left.device.backend(), "af_xdp copy", "{}", left.device.detail());
    assert!(left.device.detail().contains("zero copy"), "{}", left.device.detail());
    carry(&mut memory, &mut left, &mut right, 100_000, 64);
    assert_eq!(right.device.kernel_rx_dropped(), Some(0));
    left.close(&mut memory.pool);
    right.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn jumbo_frames_pass_in_segments_both_ways() {
    skip_unless_namespaces!();
    let (_left, _right, mut memory, mut left, mut right) = facing_ports(1, 9000);
    assert_eq!(left.device.mtu_bytes(), 9000);
    for bytes in [1514, 1600, 2048, 4000, 9014] {
        carry(&mut memory, &mut left, &mut right, 500, bytes);
        carry(&mut memory, &mut right, &mut left, 500, bytes);
    }
    left.close(&mut memory.pool);
    right.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn udp_of_the_kernel_comes_in_and_answers_go_out_over_both_families() {
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "eth0"), 1, 1500);
    theirs.run("ethtool -K eth0 tx off");
    theirs.ip("addr add 192.0.2.1/24 dev eth0");
    theirs.ip("addr add 2001:db8::1/64 dev eth0 nodad");
    theirs.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent");
    theirs.ip("neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent");
    let mut memory = Memory::new(FRAMES);
    let mut port = Port::open(&mut memory, &request(&ours, "port0", None));

    for (own, peer) in
        [("192.0.2.1:4000", "192.0.2.2:4001"), ("[2001:db8::1]:4000", "[2001:db8::2]:4001")]
    {
        let socket = theirs.inside(|| UdpSocket::bind(own).unwrap());
        socket.connect(peer).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        for round in 0..100_u32 {
            socket.send(&round.to_be_bytes()).unwrap();
            wait_for("the echo's request", || echo(&mut port, &mut memory) > 0);
            let mut answer = [0; 64];
            assert_eq!(socket.recv(&mut answer).unwrap(), 4);
            assert_eq!(answer[..4], round.to_be_bytes());
        }
    }
    port.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

/// Sends UDP packets back to where they came from; their checksums stay right. Returns how many.
fn echo(port: &mut Port, memory: &mut Memory) -> usize {
    let mut burst = Burst::new();
    port.poll(&mut memory.pool, &mut burst);
    let mut answers = Burst::new();
    for mut packet in burst {
        let data = packet.data_mut(memory.pool.region());
        let (address_bytes, addresses_at, is_udp) = match data[12..14] {
            [0x08, 0x00] => (4, 26, data[23] == 17),
            [0x86, 0xdd] => (16, 22, data[20] == 17),
            _ => (0, 0, false),
        };
        if !is_udp {
            memory.pool.free_packet(packet);
            continue;
        }
        let (destination, source) = data[..12].split_at_mut(6);
        destination.swap_with_slice(source);
        let (source, rest) = data[addresses_at..].split_at_mut(address_bytes);
        let (destination, udp) = rest.split_at_mut(address_bytes);
        source.swap_with_slice(destination);
        let (source, destination) = udp[..4].split_at_mut(2);
        source.swap_with_slice(destination);
        answers.push(packet);
    }
    let count = answers.len();
    port.send(0, &mut memory.pool, &mut answers);
    count
}

#[test]
fn each_queue_of_a_device_has_its_own_traffic() {
    skip_unless_namespaces!();
    let (_left, _right, mut memory, mut left, mut right) = facing_ports(4, 1500);
    assert_eq!((left.queues.len(), right.queues.len()), (4, 4));
    for queue in 0..4_u32 {
        let mut burst = Burst::new();
        burst.push(packet(&mut memory.pool, &numbered_frame(queue, 100)));
        left.send(queue as usize, &mut memory.pool, &mut burst);
    }
    let mut numbers = Vec::new();
    wait_for("a frame of each queue", || {
        left.poll_aside(&mut memory.pool);
        let mut burst = Burst::new();
        right.poll(&mut memory.pool, &mut burst);
        for packet in burst {
            numbers.extend(number_of(packet.data(memory.pool.region())));
            memory.pool.free_packet(packet);
        }
        numbers.len() == 4
    });
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
    left.close(&mut memory.pool);
    right.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn an_interface_that_vanishes_in_use_is_noticed_and_gives_its_frames_back() {
    skip_unless_namespaces!();
    let (left, _right, mut memory, mut sender, receiver) = facing_ports(1, 1500);
    let mut burst = Burst::new();
    for number in 0..64 {
        burst.push(packet(&mut memory.pool, &numbered_frame(number, 64)));
    }
    sender.queues[0].tx_burst(&mut memory.pool, &mut burst, &sender.stats);
    left.ip("link del left0");
    wait_for("the port to notice", || {
        for packet in burst.drain(..) {
            memory.pool.free_packet(packet);
        }
        burst.push(packet(&mut memory.pool, &numbered_frame(0, 64)));
        sender.queues[0].tx_burst(&mut memory.pool, &mut burst, &sender.stats);
        sender.queues[0].flush(&mut memory.pool, &sender.stats).is_err()
    });
    for packet in burst {
        memory.pool.free_packet(packet);
    }
    sender.close(&mut memory.pool);
    receiver.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

/// Frames that the XDP program of `interface` has given to its socket.
fn redirected(namespace: &Namespace, interface: &str) -> u64 {
    let counters = namespace.run(&format!("ethtool -S {interface}"));
    let name = "rx_queue_0_xdp_redirect:";
    let count = counters.lines().find_map(|line| line.trim().strip_prefix(name));
    count.expect("veth counts").trim().parse().unwrap()
}

/// What a port of these tests has counted.
fn totals(stats: &Arc<WorkerStats>) -> PortTotals {
    EngineStats::new([Arc::clone(stats)]).port(PortRef { index: 7, generation: 1 })
}

#[test]
fn frames_in_the_receive_ring_of_a_closed_port_are_received_and_dropped() {
    const FRAMES_SENT: u64 = 100;
    skip_unless_namespaces!();
    let (_left, right, mut memory, mut sender, receiver) = facing_ports(1, 1500);
    for number in 0..FRAMES_SENT {
        let mut burst = Burst::new();
        let number = u32::try_from(number).unwrap();
        burst.push(packet(&mut memory.pool, &numbered_frame(number, 64)));
        sender.send(0, &mut memory.pool, &mut burst);
    }
    let redirected = || redirected(&right, "right0");
    wait_for("all frames to be in the ring", || redirected() >= FRAMES_SENT);
    let stats = Arc::clone(&receiver.stats);
    receiver.close(&mut memory.pool);
    let totals = totals(&stats);
    // A stack may have sent something unasked too.
    assert_eq!(totals.rx_packets, redirected());
    assert_eq!(totals.dropped_for(DropReason::RxPortClosed), totals.rx_packets);
    assert!(totals.rx_bytes >= FRAMES_SENT * 64);
    sender.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn what_the_kernel_never_took_is_dropped_where_it_came_in_and_not_sent() {
    skip_unless_namespaces!();
    let (left, _right, mut memory, mut sender, mut receiver) = facing_ports(1, 1500);
    let ingress = PortRef { index: 3, generation: 1 };
    let fill = |memory: &mut Memory, numbers: std::ops::Range<u32>| {
        let mut burst = Burst::new();
        for number in numbers {
            let mut packet = packet(&mut memory.pool, &numbered_frame(number, 64));
            packet.ingress = ingress;
            burst.push(packet);
        }
        burst
    };
    let mut burst = fill(&mut memory, 0..10);
    sender.send(0, &mut memory.pool, &mut burst);
    let mut arrived = Vec::new();
    wait_for("the first frames", || {
        let mut burst = Burst::new();
        receiver.poll(&mut memory.pool, &mut burst);
        for packet in burst {
            arrived.extend(number_of(packet.data(memory.pool.region())));
            memory.pool.free_packet(packet);
        }
        arrived.len() == 10
    });
    // The kernel sends nothing on an interface that is down.
    left.ip("link set left0 down");
    let mut burst = fill(&mut memory, 10..30);
    assert_eq!(sender.queues[0].tx_burst(&mut memory.pool, &mut burst, &sender.stats), 20);
    let stats = Arc::clone(&sender.stats);
    sender.close(&mut memory.pool);
    receiver.poll_aside(&mut memory.pool);
    let sent = totals(&stats);
    assert_eq!((sent.tx_packets, sent.tx_bytes), (10, 640));
    let ingress = EngineStats::new([stats]).port(ingress);
    assert_eq!((ingress.forwarded, ingress.dropped_for(DropReason::TxPortClosed)), (10, 20));
    receiver.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn a_port_can_be_closed_and_opened_a_hundred_times() {
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "eth0"), 1, 1500);
    let mut memory = Memory::new(FRAMES);
    let asked = request(&ours, "port0", None);
    for _ in 0..100 {
        let port = Port::open(&mut memory, &asked);
        port.close(&mut memory.pool);
        memory.assert_all_frames_are_back();
    }
}

#[test]
fn what_cannot_be_opened_says_why_and_keeps_no_frame() {
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "eth0"), 1, 1500);
    let mut memory = Memory::new(FRAMES);
    let complaint = |memory: &mut Memory, asked| {
        let error = Port::try_open(memory, &asked).err().expect("it cannot be opened");
        std::error::Error::source(&error).unwrap().to_string()
    };
    let text = complaint(&mut memory, request(&ours, "none0", None));
    assert!(text.contains("there is no interface none0"), "{text}");
    let text = complaint(&mut memory, request(&ours, "port0", Some(3)));
    assert!(text.contains("has 1 rx queues, so 3 cannot be opened"), "{text}");
    let open = Port::open(&mut memory, &request(&ours, "port0", None));
    let text = complaint(&mut memory, request(&ours, "port0", None));
    assert!(text.contains("runs another XDP program already"), "{text}");
    open.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn a_port_whose_queues_do_not_fit_packet_memory_says_so_and_keeps_no_frame() {
    const QUEUES: u16 = 64;
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "eth0"), QUEUES.into(), 1500);
    let mut memory = Memory::new(FRAMES);
    let complaint = |memory: &mut Memory, asked| {
        let error = Port::try_open(memory, &asked).err().expect("it cannot be opened");
        std::error::Error::source(&error).unwrap().to_string()
    };
    let text = complaint(&mut memory, request(&ours, "port0", None));
    assert!(text.starts_with("64 queues of port0 need 4096 frames"), "{text}");
    assert!(text.contains("one port gets 2048 at most; open fewer (uplink_queues"), "{text}");
    assert!(text.ends_with("set packet_memory.frames to 16384 or more"), "{text}");
    memory.assert_all_frames_are_back();
    let port = Port::open(&mut memory, &request(&ours, "port0", Some(QUEUES / 2)));
    assert!(port.device.detail().contains("32 of its rx queues are not served"));
    port.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
    // Whoever comes when others have it all hears of that, too. The first queue was bound already.
    let mut taken = Vec::new();
    while let Some(frame) = memory.pool.allocate() {
        taken.push(frame);
    }
    for frame in taken.drain(..100) {
        memory.pool.free(frame);
    }
    let text = complaint(&mut memory, request(&ours, "port0", Some(2)));
    assert!(text.contains("packet memory is used up: queue 1 of port0 got 0 frames"), "{text}");
    for frame in taken {
        memory.pool.free(frame);
    }
    memory.assert_all_frames_are_back();
}

#[test]
fn a_sleeper_wakes_when_a_frame_comes_in() {
    skip_unless_namespaces!();
    let (_left, _right, mut memory, mut left, mut right) = facing_ports(1, 1500);
    let is_readable = |queue: &dyn PortQueue, timeout_seconds: i64| {
        let descriptor = queue.wait_descriptor().unwrap();
        let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
        let timeout = Timespec { tv_sec: timeout_seconds, tv_nsec: 0 };
        poll(&mut descriptors, Some(&timeout)).unwrap() > 0
    };
    right.poll_aside(&mut memory.pool);
    let mut burst = Burst::new();
    burst.push(packet(&mut memory.pool, &numbered_frame(1, 64)));
    left.send(0, &mut memory.pool, &mut burst);
    assert!(is_readable(&*right.queues[0], 30));
    let mut burst = Burst::new();
    wait_for("the frame", || right.poll(&mut memory.pool, &mut burst) > 0);
    for packet in burst {
        memory.pool.free_packet(packet);
    }
    left.close(&mut memory.pool);
    right.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}

#[test]
fn the_host_check_knows_what_a_veth_can() {
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "eth0"), 1, 1500);
    let question = HostQuestion { uplink: Some("port0".into()), ..HostQuestion::default() };
    let findings = ours.inside(|| check_host(&question));
    let xdp = findings.iter().find(|finding| finding.subject == "XDP").unwrap();
    assert_eq!(xdp.found, "port0 (driver veth): copy mode only");
}
