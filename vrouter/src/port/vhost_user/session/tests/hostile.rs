//! Frontends that break the rules, stand still, or push in.

use std::{io::Write, os::fd::AsFd};

use vhost::vhost_user::message::FrontendReq;

use super::{
    Port,
    client::{
        Client, GUEST_ADDRESS, MEMORY_BYTES, USER_ADDRESS, addresses, memory, null, region, table,
        words,
    },
};

/// A connection whose last request is refused; the reason is in the detail, and the next frontend
/// is served.
fn expect_end_of(port: &Port, mut client: Client, request: FrontendReq, body: &[u8], why: &str) {
    assert_eq!(client.tell(request, body, &[]), Some(1), "{why}");
    client.expect_end();
    port.wait_for(why);
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let port = Port::open(1);
    let [guest, bytes, user, offset] = region();
    let far = [guest + MEMORY_BYTES, bytes, user + MEMORY_BYTES, offset];
    for (regions, why) in [
        (vec![region(), [guest + 4096, bytes, user, offset]], "overlap"),
        (vec![[u64::MAX - 4095, bytes, user, offset]], "values that are not possible"),
        (vec![[guest, bytes, u64::MAX - 4095, offset]], "values that are not possible"),
        (vec![[guest, 0, user, offset]], "values that are not possible"),
        (vec![[guest, bytes, user, 4096]], "the region ends at byte"),
        (vec![region(), [guest, u64::MAX / 2, user, offset]], "values|ends at byte"),
        (vec![far, [guest, u64::MAX - guest - 1, 0, 0]], "ends at byte"),
    ] {
        let memory = memory();
        let mut client = Client::connect(&port);
        client.negotiate(0);
        let files = vec![memory.as_fd(); regions.len()];
        let answer = client.tell(FrontendReq::SET_MEM_TABLE, &table(&regions), &files);
        assert_eq!(answer, Some(1), "{why}");
        client.expect_end();
        let detail = port.wait_for("the last connection: ");
        assert!(why.split('|').any(|why| detail.contains(why)), "{why}: {detail}");
    }
    // What is no memory, and as many descriptors as regions.
    let (null, memory) = (null(), memory());
    for (files, why) in [
        (vec![null.as_fd()], "the region is no file of memfd"),
        (vec![], "came with 0 descriptors"),
        (vec![memory.as_fd(), memory.as_fd()], "came with 2 descriptors"),
    ] {
        let mut client = Client::connect(&port);
        client.negotiate(0);
        let answer = client.tell(FrontendReq::SET_MEM_TABLE, &table(&[region()]), &files);
        assert_eq!(answer, Some(1), "{why}");
        client.expect_end();
        port.wait_for(why);
    }
    port.close();
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let port = Port::open(1);
    let outside = USER_ADDRESS + MEMORY_BYTES - 16;
    for (request, body, why) in [
        (FrontendReq::SET_VRING_NUM, words(&[9, 64]), "there is no ring 9"),
        (FrontendReq::SET_VRING_NUM, words(&[u32::MAX, 64]), "there is no ring 4294967295"),
        (FrontendReq::SET_VRING_NUM, words(&[0, 0]), "a ring of 0 entries"),
        (FrontendReq::SET_VRING_NUM, words(&[0, 65_536]), "a ring of 65536 entries"),
        (FrontendReq::SET_VRING_NUM, words(&[0, 63]), "of 63 entries is not possible"),
        (FrontendReq::SET_VRING_BASE, words(&[0, 65_536]), "ring position 0x10000"),
        (FrontendReq::SET_VRING_ENABLE, words(&[0, 2]), "values that are not possible"),
        (FrontendReq::GET_VRING_BASE, words(&[77, 0]), "there is no ring 77"),
        (FrontendReq::SET_VRING_KICK, 0x200_u64.to_ne_bytes().into(), "values that are not"),
        (FrontendReq::SET_VRING_KICK, 0_u64.to_ne_bytes().into(), "came with 0 descriptors"),
        (FrontendReq::SET_VRING_ADDR, addresses(0, outside, outside, outside), "not inside"),
        (FrontendReq::SET_VRING_ADDR, addresses(0, 0, 0, 0), "not inside"),
        (FrontendReq::SET_VRING_ADDR, addresses(0, 3, 1, 1), "values that are not possible"),
        (FrontendReq::SET_FEATURES, u64::MAX.to_ne_bytes().into(), "not all were offered"),
        (FrontendReq::SET_OWNER, vec![0], "has 1 bytes"),
        (FrontendReq::GET_INFLIGHT_FD, vec![0; 24], "values that are not possible"),
        (FrontendReq::SEND_RARP, vec![0; 8], "no request 19"),
    ] {
        let mut client = Client::connect(&port);
        client.set_up_all(0);
        port.wait_for("1 of 1 queue pairs");
        expect_end_of(&port, client, request, &body, why);
    }
    port.close();
}

#[test]
fn what_workers_would_wait_for_is_no_event() {
    let port = Port::open(1);
    let (reader, writer) = std::io::pipe().unwrap();
    let (null, memory) = (null(), memory());
    for file in [reader.as_fd(), writer.as_fd(), null.as_fd(), memory.as_fd()] {
        for request in
            [FrontendReq::SET_VRING_CALL, FrontendReq::SET_VRING_ERR, FrontendReq::SET_VRING_KICK]
        {
            let mut client = Client::connect(&port);
            client.set_up_all(0);
            assert_eq!(client.tell(request, &1_u64.to_ne_bytes(), &[file]), Some(1));
            client.expect_end();
            port.wait_for("ring 1 came with a descriptor that is no eventfd");
        }
    }
    port.close();
}

#[test]
fn regions_come_and_go_and_a_wrong_one_is_refused() {
    let port = Port::open(1);
    let mut client = Client::connect(&port);
    client.set_up_all(0);
    let detail = port.wait_for("1 of 1 queue pairs");
    let second = memory();
    let single = |region: [u64; 4]| -> Vec<u8> {
        [0].iter().chain(&region).flat_map(|number| number.to_ne_bytes()).collect()
    };
    let more = single([GUEST_ADDRESS + MEMORY_BYTES, MEMORY_BYTES, 0x1000, 0]);
    assert_eq!(client.ask(FrontendReq::GET_MAX_MEM_SLOTS, &[]), Some(64_u64.to_ne_bytes().into()));
    for _ in 0..3 {
        assert_eq!(client.tell(FrontendReq::ADD_MEM_REG, &more, &[second.as_fd()]), Some(0));
        assert_eq!(port.wait_for("queue pairs"), detail);
        assert_eq!(client.tell(FrontendReq::REM_MEM_REG, &more, &[]), Some(0));
        // Not there any more, which ends nothing.
        assert_eq!(client.tell(FrontendReq::REM_MEM_REG, &more, &[]), Some(1));
        assert_eq!(port.wait_for("queue pairs"), detail);
    }
    // The one that the rings lie in.
    let first = single(region());
    assert_eq!(client.tell(FrontendReq::REM_MEM_REG, &first, &[]), Some(0));
    client.expect_end_of_rings(&port);
    port.close();
}

impl Client {
    /// Without memory rings stand still; with some again they would go on.
    fn expect_end_of_rings(mut self, port: &Port) {
        port.wait_for("has not started its rings");
        assert_eq!(self.share(), Some(0));
        port.wait_for("1 of 1 queue pairs");
    }
}

#[test]
fn a_late_worker_keeps_the_memory_and_the_next_frontend_waits() {
    let port = Port::open(1);
    let mut client = Client::connect(&port);
    client.set_up_all(0);
    port.wait_for("1 of 1 queue pairs");
    port.wake_worker(false);
    client.send(FrontendReq::GET_VRING_BASE.into(), 0, &words(&[0, 0]), &[]);
    assert_eq!(client.answer(), None);
    let detail = port.wait_for("waits for its rings");
    assert!(detail.contains("does not answer within 2 s"), "{detail}");
    let mut next = Client::connect(&port);
    next.send(FrontendReq::GET_FEATURES.into(), 0, &[], &[]);
    port.wait_for("waits for its rings");
    port.wake_worker(true);
    assert!(next.answer().is_some());
    next.set_up_all(0);
    port.wait_for("1 of 1 queue pairs");
    drop(next);
    port.close();
}

#[test]
fn one_frontend_is_served_at_a_time_and_the_next_when_it_has_gone() {
    let port = Port::open(1);
    let mut first = Client::connect(&port);
    first.set_up_all(0);
    port.wait_for("1 of 1 queue pairs");
    let mut second = Client::connect(&port);
    second.send(FrontendReq::GET_FEATURES.into(), 0, &[], &[]);
    assert!(first.ask(FrontendReq::GET_FEATURES, &[]).is_some());
    drop(first);
    assert!(second.answer().is_some());
    // Half a message, and gone.
    second.socket.write_all(&[1, 0, 0, 0, 1]).unwrap();
    drop(second);
    port.wait_for("in the middle of a message");
    assert!(port.device.take_notice(std::time::Instant::now()).unwrap().contains("in the middle"));
    port.close();
}
