//! Guests whose frames come back to them, while what their rings rest on changes, rightly or not.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::Instant,
};

use rustix::{process::Uid, thread::set_thread_res_uid};
use vhost::vhost_user::message::FrontendReq;

use super::{
    PATIENCE, Port,
    client::{Client, addresses, event, table, words},
};
use crate::port::{
    SocketAccess,
    vhost_user::{
        driver::{BASE_ADDRESS, DriverMemory, DriverRing, RingShape, RingUse},
        features,
        ring::{RingFeatures, RingFormat},
    },
};

const BUFFER_BYTES: u32 = 128;
/// What a frame has at least; its number is in its first four bytes.
const FRAME_BYTES: usize = 60;

/// A driver of one queue pair and its frontend.
struct Guest {
    client: Client,
    memory: DriverMemory,
    transmit: DriverRing,
    receive: DriverRing,
    sent: u32,
    arrived: u32,
}

impl Guest {
    fn start(port: &Port, format: RingFormat, size: u16) -> Self {
        let mut client = Client::connect(port);
        let packed = if format == RingFormat::Packed { features::RING_PACKED } else { 0 };
        client.negotiate(packed);
        let (memory, [transmit, receive]) = rings(format, size);
        let regions = table(&[[BASE_ADDRESS, bytes_of(&memory), BASE_ADDRESS, 0]]);
        let file = [memory.file().as_fd()];
        assert_eq!(client.tell(FrontendReq::SET_MEM_TABLE, &regions, &file), Some(0));
        let mut guest = Self { client, memory, transmit, receive, sent: 0, arrived: 0 };
        guest.set_up();
        port.wait_for("1 of 1 queue pairs");
        guest
    }

    /// Says where the rings are, and starts them.
    fn set_up(&mut self) {
        for (ring, driver) in [(0, &self.receive), (1, &self.transmit)] {
            let [descriptors, driver_area, device_area] = driver.areas();
            let size = u32::from(driver.shape().size);
            let at = addresses(ring, descriptors, device_area, driver_area);
            let packed = driver.shape().format == RingFormat::Packed;
            let base = if packed { 0x8000_8000 } else { 0 };
            let (number, event) = (u64::from(ring).to_ne_bytes(), event());
            for (request, body, file) in [
                (FrontendReq::SET_VRING_NUM, words(&[ring, size]), None),
                (FrontendReq::SET_VRING_BASE, words(&[ring, base]), None),
                (FrontendReq::SET_VRING_ADDR, at, None),
                (FrontendReq::SET_VRING_CALL, number.to_vec(), Some(&event)),
                (FrontendReq::SET_VRING_KICK, number.to_vec(), Some(&event)),
                (FrontendReq::SET_VRING_ENABLE, words(&[ring, 1]), None),
            ] {
                let files: Vec<_> = file.map(AsFd::as_fd).into_iter().collect();
                assert_eq!(self.client.tell(request, &body, &files), Some(0), "{request:?}");
            }
        }
    }

    /// The driver makes its rings anew, as after a reset.
    fn renew(&mut self, format: RingFormat) {
        let size = self.transmit.shape().size;
        let [transmit, receive] = rings_in(&self.memory, format, size);
        (self.transmit, self.receive, self.sent, self.arrived) = (transmit, receive, 0, 0);
    }

    /// Offers `count` frames, or as many as there is room for.
    fn send(&mut self, count: u16) {
        let size = self.transmit.shape().size;
        self.transmit.take_used(size, |_, _| ());
        self.receive.offer(size);
        let room = self.transmit.room().min(self.receive_room());
        for _ in 0..count.min(room) {
            let slot = u16::try_from(self.sent % u32::from(size)).unwrap();
            let mut frame = [0; FRAME_BYTES];
            frame[..4].copy_from_slice(&self.sent.to_le_bytes());
            assert!(self.transmit.write(slot.into(), &frame));
            assert_eq!(self.transmit.offer(1), 1);
            self.sent += 1;
        }
    }

    /// So many frames at most are on their way: there is a buffer for each to come back.
    fn receive_room(&self) -> u16 {
        let away = u16::try_from(self.sent - self.arrived).unwrap();
        self.receive.shape().size - away
    }

    /// Takes what came back, in order and each once.
    fn take(&mut self) {
        let Self { receive, arrived, .. } = self;
        receive.take_used(u16::MAX, |_, frame| {
            let number = u32::from_le_bytes(frame.read().unwrap());
            assert_eq!(number, *arrived);
            *arrived += 1;
        });
    }

    /// Sends `count` frames and waits until they are back.
    fn exchange(&mut self, count: u32) {
        let deadline = Instant::now() + PATIENCE;
        let last = self.sent + count;
        while self.arrived < last {
            self.send(u16::try_from(last - self.sent).unwrap_or(u16::MAX));
            self.take();
            assert!(Instant::now() < deadline, "{} of {last} frames came back", self.arrived);
        }
    }
}

fn rings(format: RingFormat, size: u16) -> (DriverMemory, [DriverRing; 2]) {
    let bytes = 2 * shape(format, size, RingUse::Receive).bytes();
    let memory = DriverMemory::create(bytes.next_multiple_of(8192), false).unwrap();
    let rings = rings_in(&memory, format, size);
    (memory, rings)
}

fn rings_in(memory: &DriverMemory, format: RingFormat, size: u16) -> [DriverRing; 2] {
    let half = bytes_of(memory) / 2;
    [(RingUse::Transmit, 0), (RingUse::Receive, half)]
        .map(|(usage, offset)| DriverRing::new(memory, offset, shape(format, size, usage)).unwrap())
}

fn shape(format: RingFormat, size: u16, usage: RingUse) -> RingShape {
    let features =
        RingFeatures { event_index: false, indirect: false, mergeable: false, version_1: true };
    RingShape { format, size, usage, buffer_bytes: BUFFER_BYTES, buffers: 0, features }
}

fn bytes_of(memory: &DriverMemory) -> u64 {
    memory.file().metadata().unwrap().len()
}

/// The body of a message about one region.
fn single(region: [u64; 4]) -> Vec<u8> {
    [0].iter().chain(&region).flat_map(|number| number.to_ne_bytes()).collect()
}

#[test]
fn rings_of_every_size_go_round_and_round() {
    for (format, size) in [
        (RingFormat::Split, 1),
        (RingFormat::Split, 2),
        (RingFormat::Split, 32_768),
        (RingFormat::Packed, 1),
        (RingFormat::Packed, 3),
        (RingFormat::Packed, 32_767),
        (RingFormat::Packed, 32_768),
    ] {
        let port = Port::open(1);
        let mut guest = Guest::start(&port, format, size);
        // Past the end of the ring. Of a small one, each frame waits for the one before.
        guest.exchange(if size > 1000 { 33_100 } else { 40 });
        assert!(port.wait_for("1 of 1").contains("1 of 1 queue pairs"), "{format:?} {size}");
        drop(guest);
        port.close();
    }
}

#[test]
fn a_split_ring_goes_on_behind_the_last_index() {
    let port = Port::open(1);
    let mut guest = Guest::start(&port, RingFormat::Split, 256);
    guest.exchange(70_000);
    drop(guest);
    port.close();
}

#[test]
fn traffic_goes_on_while_memory_comes_and_goes() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let port = Port::open(1);
        let mut guest = Guest::start(&port, format, 64);
        let more = DriverMemory::create(4096, false).unwrap();
        let place = 1 << 40;
        let region = single([place, 4096, place, 0]);
        for _ in 0..20 {
            // Each time, some are on their way.
            guest.send(20);
            let file = [more.file().as_fd()];
            assert_eq!(guest.client.tell(FrontendReq::ADD_MEM_REG, &region, &file), Some(0));
            guest.send(20);
            assert_eq!(guest.client.tell(FrontendReq::REM_MEM_REG, &region, &[]), Some(0));
            guest.exchange(30);
        }
        drop(guest);
        port.close();
    }
}

#[test]
fn memory_that_is_taken_away_under_traffic_stops_the_ring_alone() {
    let port = Port::open(1);
    let mut guest = Guest::start(&port, RingFormat::Split, 64);
    guest.exchange(10);
    // The rings stay, and most buffers go.
    let (bytes, kept) = (bytes_of(&guest.memory), 3 * 4096);
    let half = bytes / 2;
    let regions = [
        [BASE_ADDRESS, kept, BASE_ADDRESS, 0],
        [BASE_ADDRESS + kept, half - kept, BASE_ADDRESS + kept, kept],
        [BASE_ADDRESS + half, half, BASE_ADDRESS + half, half],
    ];
    let file = guest.memory.file().as_fd();
    let told = guest.client.tell(FrontendReq::SET_MEM_TABLE, &table(&regions), &[file; 3]);
    assert_eq!(told, Some(0));
    guest.exchange(100);
    let buffers = single(regions[1]);
    assert_eq!(guest.client.tell(FrontendReq::REM_MEM_REG, &buffers, &[]), Some(0));
    guest.send(20);
    let detail = port.wait_for("is stopped until the guest resets its device");
    assert!(detail.contains("are not in the guest's memory"), "{detail}");
    // The connection lives, and so does the next driver on it.
    let file = [guest.memory.file().as_fd()];
    assert_eq!(guest.client.tell(FrontendReq::ADD_MEM_REG, &buffers, &file), Some(0));
    guest.renew(RingFormat::Split);
    guest.set_up();
    guest.exchange(100);
    drop(guest);
    port.close();
}

#[test]
fn features_that_change_under_traffic_cost_the_guest_its_rings_at_most() {
    for (format, other) in
        [(RingFormat::Split, RingFormat::Packed), (RingFormat::Packed, RingFormat::Split)]
    {
        let port = Port::open(1);
        let mut guest = Guest::start(&port, format, 64);
        guest.exchange(100);
        guest.send(20);
        // On live rings, which nobody stopped: what lies there is no ring of the other format.
        let bits = |format| match format {
            RingFormat::Split => 0,
            RingFormat::Packed => features::RING_PACKED,
        };
        let all = features::PROTOCOL_FEATURES | features::VERSION_1 | bits(other);
        let told = guest.client.tell(FrontendReq::SET_FEATURES, &all.to_ne_bytes(), &[]);
        if told == Some(0) {
            for ring in [0, 1] {
                assert!(
                    guest.client.ask(FrontendReq::GET_VRING_BASE, &words(&[ring, 0])).is_some()
                );
            }
            guest.renew(other);
            guest.set_up();
        } else {
            drop(guest);
            guest = Guest::start(&port, other, 64);
        }
        guest.exchange(100);
        drop(guest);
        port.close();
    }
}

#[test]
fn an_index_that_jumps_stops_the_ring_until_the_reset() {
    let port = Port::open(1);
    let mut guest = Guest::start(&port, RingFormat::Split, 64);
    for jump in [65, 1000, 0x8000, 0xffff_u16] {
        guest.exchange(10);
        let [_, driver_area, _] = guest.transmit.areas();
        let index = guest.memory.guest_memory().translate(driver_area + 2, 2).unwrap();
        let now = u16::from_le_bytes(index.read().unwrap());
        index.copy_from(&now.wrapping_add(jump).to_le_bytes());
        let detail = port.wait_for("is stopped until the guest resets its device");
        assert!(detail.contains("chains available in a ring of 64 entries"), "{detail}");
        for ring in [0, 1] {
            assert!(guest.client.ask(FrontendReq::GET_VRING_BASE, &words(&[ring, 0])).is_some());
        }
        guest.renew(RingFormat::Split);
        guest.set_up();
    }
    guest.exchange(10);
    drop(guest);
    port.close();
}

#[test]
fn a_guest_that_goes_in_the_middle_of_a_burst_takes_nothing_with_it() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let (port, other) = (Port::open(1), Port::open(1));
        let mut neighbour = Guest::start(&other, format, 64);
        for way in 0..3 {
            let mut guest = Guest::start(&port, format, 256);
            guest.exchange(100);
            guest.send(256);
            match way {
                0 => {}
                1 => guest.memory.file().set_len(0).unwrap(),
                _ => guest.memory.file().set_len(4096).unwrap(),
            }
            if way > 0 {
                port.wait_for("the guest cut the file of its memory short");
            }
            drop(guest);
            port.wait_for("no frontend connected");
            neighbour.exchange(100);
        }
        drop(neighbour);
        other.close();
        // All frames of packet memory are back.
        port.close();
    }
}

#[test]
fn nobody_but_the_owner_opens_a_socket() {
    const OWNER: u32 = 4001;
    const OTHER: u32 = 4002;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to be others");
        return;
    }
    let access = |file_mode| SocketAccess { uid: OWNER, gid: OWNER, file_mode };
    // A user, or a group that it is not in.
    for file_mode in [0o600, 0o660] {
        let port = Port::open_for(access(file_mode));
        // Its folder hides nothing.
        port.show_folder();
        let socket = port.socket();
        let connect_as = |uid| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let uid = Uid::from_raw(uid);
                // Of this thread alone; what a privileged user may do goes with it.
                set_thread_res_uid(uid, uid, uid).unwrap();
                UnixStream::connect(socket).map(drop).map_err(|error| error.kind())
            })
            .join()
            .unwrap()
        };
        assert_eq!(connect_as(OTHER), Err(std::io::ErrorKind::PermissionDenied));
        assert_eq!(connect_as(OWNER), Ok(()));
        port.close();
    }
}
