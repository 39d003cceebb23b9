//! Questions to the kernel over netlink, asked and answered in turn.
//!
//! The engine's library is synchronous, so this is the plain socket: a request, then its answers.
//! Not here: what is asked (`underlay`, `port::af_xdp::interface`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Datagrams that one answer takes at most: a dump of a large neighbour table is some hundred.
const ANSWER_DATAGRAMS_MAX: usize = 65_536;

/// The kernel's own netlink port.
const KERNEL: u32 = 0;

/// A connection to the kernel's routing part, in the network namespace of the thread that opened
/// it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Connects.
    pub(crate) fn open() -> io::Result<Self> {
        Self::open_to(KERNEL)
    }

    /// Connects to a netlink port: the kernel's, or in tests one where nobody listens.
    pub(crate) fn open_to(port: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(port, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and collects the answers. `flags` come on top of those that every request has.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        uninterrupted(|| self.socket.send(&bytes, 0))?;
        self.answers()
    }

    fn answers(&self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        for _ in 0..ANSWER_DATAGRAMS_MAX {
            let (datagram, _) = uninterrupted(|| self.socket.recv_from_full())?;
            for (header, payload) in messages(&datagram) {
                if header.sequence_number != self.sequence {
                    continue;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }
}

/// Carries a system call out again as often as a signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The messages of one datagram. Those of kinds unknown to the decoder are left out.
pub(crate) fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = (NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
            // Messages are aligned to four bytes; a length below that of the header would never
            // end.
            let message = rest.get(..length).filter(|message| message.len() >= 16)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                return Some(message.into_parts());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_is_carried_out_again() {
        let mut interruptions = 2;
        let call = || {
            if interruptions > 0 {
                interruptions -= 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok("answer")
        };
        assert_eq!(uninterrupted(call).unwrap(), "answer");
        let refused = uninterrupted(|| Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
