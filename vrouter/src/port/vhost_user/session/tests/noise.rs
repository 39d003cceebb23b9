//! Messages without sense: whatever comes, the next frontend is served.

use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq;

use super::{
    Port,
    client::{
        Client, GUEST_ADDRESS, MEMORY_BYTES, USER_ADDRESS, event, memory, null, region, table,
    },
};
use crate::port::vhost_user::features;

/// What comes along with a message.
#[derive(Clone, Copy, Debug)]
enum Attached {
    Memory,
    Event,
    Null,
}

impl Attached {
    fn open(self) -> OwnedFd {
        match self {
            Self::Memory => memory(),
            Self::Event => event(),
            Self::Null => null(),
        }
    }
}

/// Numbers that lead somewhere, and some that do not.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..4,
        2 => prop::sample::select(vec![64, 256, 32_768, 0x100, 0x101, 0x8000_8000]),
        4 => (0..MEMORY_BYTES / 16).prop_map(|line| USER_ADDRESS + line * 16),
        1 => (0..MEMORY_BYTES).prop_map(|offset| GUEST_ADDRESS + offset),
        2 => Just(features::offered(1, false)),
        2 => any::<u64>().prop_map(|bits| bits & features::offered(1, false)),
        1 => Just(features::PROTOCOL),
        1 => any::<u64>(),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |numbers: Vec<u64>| numbers.iter().flat_map(|it| it.to_ne_bytes()).collect();
    prop_oneof![
        2 => Just(Vec::new()),
        4 => number().prop_map(|number| number.to_ne_bytes().into()),
        4 => (0_u32..3, 0_u32..300).prop_map(|(ring, number)| {
            [ring, number].iter().flat_map(|word| word.to_ne_bytes()).collect()
        }),
        3 => prop::collection::vec(number(), 2..7).prop_map(bytes),
        2 => Just(table(&[region()])),
        1 => prop::collection::vec(any::<u8>(), 0..100),
    ]
}

fn message() -> impl Strategy<Value = (u32, bool, Vec<u8>, Vec<Attached>)> {
    let attached = prop::sample::select(vec![Attached::Memory, Attached::Event, Attached::Null]);
    let files = prop_oneof![
        3 => Just(Vec::new()),
        3 => prop::collection::vec(attached.clone(), 1),
        1 => prop::collection::vec(attached, 0..4),
    ];
    (0_u32..46, any::<bool>(), body(), files)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_leave_the_port_to_the_next_frontend(
        is_set_up in any::<bool>(),
        messages in prop::collection::vec(message(), 1..40),
    ) {
        let port = Port::open(1);
        for messages in messages.chunks(8) {
            let mut client = Client::connect(&port);
            if is_set_up {
                client.set_up_all(0);
            }
            for (code, needs_reply, body, files) in messages {
                let files: Vec<_> = files.iter().map(|file| file.open()).collect();
                let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                if !client.send(*code, u32::from(*needs_reply) * 8, body, &files) {
                    break;
                }
            }
        }
        let mut client = Client::connect(&port);
        let offered = client.ask(FrontendReq::GET_FEATURES, &[]);
        prop_assert_eq!(offered, Some(features::offered(1, true).to_ne_bytes().into()));
        client.set_up_all(0);
        port.wait_for("1 of 1 queue pairs");
        drop(client);
        port.close();
    }
}
