//! Frontends that keep to the rules: crate `vhost`'s, and the orders that others send things in.

use std::{
    fs::File,
    os::{fd::AsFd, fd::AsRawFd, unix::net::UnixStream},
};

use vhost::{
    VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{
            FrontendReq, VhostUserConfigFlags, VhostUserInflight,
            VhostUserProtocolFeatures as Protocol,
        },
    },
};
use vmm_sys_util::eventfd::EventFd;

use super::{
    MAC, PATIENCE, Port,
    client::{Client, GUEST_ADDRESS, MEMORY_BYTES, USER_ADDRESS, event, memory, words},
};
use crate::port::{Steering, vhost_user::features};

#[test]
fn the_frontend_of_crate_vhost_sets_up_two_queue_pairs() {
    let port = Port::open(2);
    let stream = UnixStream::connect(port.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut frontend = Frontend::from_stream(stream, 4);
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered, features::offered(2, true));
    frontend.set_features(offered & !features::LOG_ALL & !features::RING_PACKED).unwrap();
    let protocol = frontend.get_protocol_features().unwrap();
    assert_eq!(protocol.bits(), features::PROTOCOL);
    frontend.set_protocol_features(protocol).unwrap();
    assert_eq!(frontend.get_max_mem_slots().unwrap(), 64);
    let flags = VhostUserConfigFlags::empty();
    let (_, config) = frontend.get_config(0, 12, flags, &[0; 12]).unwrap();
    assert_eq!((&config[..6], &config[6..8], &config[8..10]), (&MAC[..], &[1, 0][..], &[2, 0][..]));
    assert_eq!(&config[10..12], 9000_u16.to_le_bytes());

    let memory = File::from(memory());
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST_ADDRESS,
        memory_size: MEMORY_BYTES,
        userspace_addr: USER_ADDRESS,
        mmap_offset: 0,
        mmap_handle: memory.as_raw_fd(),
    };
    frontend.set_mem_table(&[region]).unwrap();
    let shape = VhostUserInflight::new(0, 0, 4, 256);
    let (inflight, file) = frontend.get_inflight_fd(&shape).unwrap();
    assert!(inflight.mmap_size > 0);
    frontend.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();
    let event = EventFd::new(0).unwrap();
    for ring in 0..4 {
        let base = USER_ADDRESS + ring as u64 * 0x1_0000;
        frontend.set_vring_num(ring, 256).unwrap();
        frontend.set_vring_base(ring, 0).unwrap();
        let data = VringConfigData {
            queue_max_size: 256,
            queue_size: 256,
            flags: 0,
            desc_table_addr: base,
            used_ring_addr: base + 0x8000,
            avail_ring_addr: base + 0x4000,
            log_addr: None,
        };
        frontend.set_vring_addr(ring, &data).unwrap();
        frontend.set_vring_call(ring, &event).unwrap();
        frontend.set_vring_kick(ring, &event).unwrap();
        frontend.set_vring_err(ring, &event).unwrap();
        frontend.set_vring_enable(ring, true).unwrap();
    }
    let detail = port.wait_for("2 of 2 queue pairs");
    for word in ["split ring", "mergeable", "indirect", "in order", "event index", "tx TSO"] {
        assert!(detail.contains(word), "{detail}");
    }

    // A migration begins: features and rings change under way.
    let log = super::client::memory();
    let log =
        VhostUserDirtyLogRegion { mmap_size: 4096, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    frontend.set_log_base(0, Some(log)).unwrap();
    frontend.set_features(offered & !features::RING_PACKED).unwrap();
    port.wait_for("2 of 2 queue pairs");
    for ring in 0..4 {
        frontend.set_vring_enable(ring, false).unwrap();
        assert_eq!(frontend.get_vring_base(ring).unwrap(), 0);
    }
    port.wait_for("has not started its rings");
    // Pairs, as QEMU and DPDK have it; this frontend takes it for rings from here on.
    assert_eq!(frontend.get_queue_num().unwrap(), 2);
    drop(frontend);
    port.wait_for("closed the connection");
    port.close();
}

#[test]
fn a_ring_may_be_enabled_before_features_are_acknowledged() {
    let port = Port::open(1);
    let mut client = Client::connect(&port);
    let protocol = Protocol::REPLY_ACK.bits().to_ne_bytes();
    client.send(FrontendReq::SET_PROTOCOL_FEATURES.into(), 0, &protocol, &[]);
    for ring in 0..2 {
        assert_eq!(client.tell(FrontendReq::SET_VRING_ENABLE, &words(&[ring, 1]), &[]), Some(0));
    }
    let features = features::PROTOCOL_FEATURES | features::VERSION_1;
    assert_eq!(client.tell(FrontendReq::SET_FEATURES, &features.to_ne_bytes(), &[]), Some(0));
    assert_eq!(client.share(), Some(0));
    client.set_up(0);
    client.set_up(1);
    port.wait_for("1 of 1 queue pairs");
    drop(client);
    port.close();
}

#[test]
fn rings_are_worked_on_while_packets_may_come_in() {
    let mut port = Port::open_unsteered(1);
    let mut client = Client::connect(&port);
    client.set_up_all(features::MRG_RXBUF);
    port.wait_for("has not started its rings");
    port.device.steer(&Steering::Everything).unwrap();
    let detail = port.wait_for("1 of 1 queue pairs");
    assert!(detail.starts_with("split ring, mergeable"), "{detail}");
    port.device.steer(&Steering::Nothing).unwrap();
    port.wait_for("has not started its rings");
    // The frontend is still there when the port goes, and learns of it.
    port.close();
    client.expect_end();
}

#[test]
fn an_mtu_that_the_port_does_not_carry_is_refused() {
    let port = Port::open(1);
    let mut client = Client::connect(&port);
    client.negotiate(features::MTU);
    assert_eq!(client.tell(FrontendReq::NET_SET_MTU, &9001_u64.to_ne_bytes(), &[]), Some(1));
    assert_eq!(client.tell(FrontendReq::NET_SET_MTU, &9000_u64.to_ne_bytes(), &[]), Some(0));
    let notice = port.device.take_notice(std::time::Instant::now()).unwrap();
    assert_eq!(notice, "refused: an MTU of 9001 bytes is more than the port's 9000");
    // Not ours to write, which ends nothing.
    let config = [words(&[0, 6, 0]), MAC.into()].concat();
    for _ in 0..2 {
        assert_eq!(client.tell(FrontendReq::SET_CONFIG, &config, &[]), Some(1));
    }
    drop(client);
    port.close();
}

#[test]
fn the_device_status_is_kept_and_a_reset_stops_the_rings() {
    let port = Port::open(1);
    let mut client = Client::connect(&port);
    client.set_up_all(0);
    port.wait_for("1 of 1 queue pairs");
    assert_eq!(client.tell(FrontendReq::SET_STATUS, &15_u64.to_ne_bytes(), &[]), Some(0));
    assert_eq!(client.ask(FrontendReq::GET_STATUS, &[]), Some(15_u64.to_ne_bytes().into()));
    assert_eq!(client.tell(FrontendReq::SET_STATUS, &0_u64.to_ne_bytes(), &[]), Some(0));
    port.wait_for("has not started its rings");
    let kick = event();
    for ring in 0..2_u64 {
        let files = [kick.as_fd()];
        assert_eq!(client.tell(FrontendReq::SET_VRING_KICK, &ring.to_ne_bytes(), &files), Some(0));
    }
    port.wait_for("1 of 1 queue pairs");
    drop(client);
    port.close();
}
