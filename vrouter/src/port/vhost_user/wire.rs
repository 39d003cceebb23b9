//! vhost-user messages on a Unix socket: whole, one at a time, with the descriptors that came
//! along.
//!
//! The other end is hostile: it may send anything, in pieces, or stop in the middle. Nothing here
//! waits for it but [`Wire::reply`], which has a limit.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// Bytes of a message's body at most: the largest that there is, a whole configuration space, has
/// 12 bytes and 256. Tables of memory regions are next, with 32 bytes a region.
pub(super) const BODY_BYTES_MAX: usize = 4096;
/// Descriptors that come with one message at most: one for each region of a table of memory.
pub(super) const FILES_MAX: usize = 32;
/// How long a message may be under way, from its first byte to its last, and how long the socket
/// may take no reply: a frontend that is stopped in a debugger loses its connection, and may open
/// another.
pub(super) const MESSAGE_TIME_MAX: Duration = Duration::from_secs(10);

const HEADER_BYTES: usize = 12;
const VERSION: u32 = 0x1;
const REPLY: u32 = 0x4;
const NEED_REPLY: u32 = 0x8;

/// A request as it came.
#[derive(Debug)]
pub(super) struct Message {
    /// The request's number.
    pub(super) code: u32,
    /// The frontend wants to be told how it went.
    pub(super) needs_reply: bool,
    /// At most [`BODY_BYTES_MAX`] bytes.
    pub(super) body: Vec<u8>,
    /// What came along.
    pub(super) files: ArrayVec<OwnedFd, FILES_MAX>,
}

/// Why no further message can be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the frontend closed the connection")]
    Closed,
    #[error("the frontend closed the connection in the middle of a message")]
    CutShort,
    #[error("a message did not end within {} s", MESSAGE_TIME_MAX.as_secs())]
    Unfinished,
    #[error("message {code} has {bytes} bytes, more than {BODY_BYTES_MAX}")]
    TooLong { code: u32, bytes: u32 },
    #[error("message {code} has flags {flags:#x}, which are not those of a request")]
    Flags { code: u32, flags: u32 },
    #[error("a message came with more than {FILES_MAX} descriptors")]
    TooManyFiles,
    #[error("the frontend takes no replies")]
    Stuck,
    #[error("the connection failed: {0}")]
    Io(#[from] Errno),
}

/// Our end of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Vec<u8>,
    body_filled: usize,
    files: ArrayVec<OwnedFd, FILES_MAX>,
    /// When the message under way began.
    began: Option<Instant>,
}

impl Wire {
    /// Takes over a connected socket.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            body: Vec::new(),
            body_filled: 0,
            files: ArrayVec::new(),
            began: None,
        })
    }

    /// The next message, if all of it has come.
    pub(super) fn receive(&mut self, now: Instant) -> Result<Option<Message>, WireError> {
        while self.header_filled < HEADER_BYTES {
            let (filled, files) = (self.header_filled, &mut self.files);
            let Some(rest) = self.header.get_mut(filled..) else { break };
            match receive_some(&self.socket, rest, files)? {
                Some(0) if filled == 0 => return Err(WireError::Closed),
                Some(0) => return Err(WireError::CutShort),
                Some(bytes) => self.header_filled += bytes,
                None => return self.wait(now),
            }
            self.began.get_or_insert(now);
            if self.header_filled == HEADER_BYTES {
                self.body = vec![0; Header::parse(self.header)?.body_bytes()?];
                self.body_filled = 0;
            }
        }
        while let Some(rest) = self.body.get_mut(self.body_filled..)
            && !rest.is_empty()
        {
            match receive_some(&self.socket, rest, &mut self.files)? {
                Some(0) => return Err(WireError::CutShort),
                Some(bytes) => self.body_filled += bytes,
                None => return self.wait(now),
            }
        }
        let header = Header::parse(self.header)?;
        self.header_filled = 0;
        self.began = None;
        Ok(Some(Message {
            code: header.code,
            needs_reply: header.flags & NEED_REPLY != 0,
            body: std::mem::take(&mut self.body),
            files: self.files.take(),
        }))
    }

    /// When the message under way must be here.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.began.map(|began| began + MESSAGE_TIME_MAX)
    }

    /// Answers a request of number `code`.
    pub(super) fn reply(
        &mut self,
        code: u32,
        body: &[u8],
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), WireError> {
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        for word in [code, VERSION | REPLY, bytes] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(body);
        let deadline = Instant::now() + MESSAGE_TIME_MAX;
        let (mut sent, mut file) = (0, file);
        while let Some(rest) = message.get(sent..)
            && !rest.is_empty()
        {
            match send_some(&self.socket, rest, file) {
                Ok(bytes) => {
                    sent += bytes;
                    file = None; // It went with the first byte.
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_room(deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(WireError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, now: Instant) -> Result<Option<Message>, WireError> {
        match self.deadline() {
            Some(deadline) if now >= deadline => Err(WireError::Unfinished),
            _ => Ok(None),
        }
    }

    fn wait_for_room(&self, deadline: Instant) -> Result<(), WireError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WireError::Stuck);
        }
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The twelve bytes before a body.
#[derive(Clone, Copy, Debug)]
struct Header {
    code: u32,
    flags: u32,
    bytes: u32,
}

impl Header {
    fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let mut words = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let header = Self { code: word(), flags: word(), bytes: word() };
        if header.flags & !NEED_REPLY != VERSION {
            return Err(WireError::Flags { code: header.code, flags: header.flags });
        }
        Ok(header)
    }

    fn body_bytes(self) -> Result<usize, WireError> {
        let Self { code, bytes, .. } = self;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= BODY_BYTES_MAX)
            .ok_or(WireError::TooLong { code, bytes })
    }
}

/// Reads what is there, up to `buffer`; `None` if nothing is, zero at the end.
fn receive_some(
    socket: &UnixStream,
    buffer: &mut [u8],
    files: &mut ArrayVec<OwnedFd, FILES_MAX>,
) -> Result<Option<usize>, WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = loop {
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            result => break result?,
        }
    };
    // What did not fit was closed by the kernel.
    let mut is_too_many = received.flags.contains(ReturnFlags::CTRUNC);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for file in rights {
                is_too_many |= files.try_push(file).is_err();
            }
        }
    }
    if is_too_many { Err(WireError::TooManyFiles) } else { Ok(Some(received.bytes)) }
}

fn send_some(
    socket: &UnixStream,
    bytes: &[u8],
    file: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let files = file.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::NOBUFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (UnixStream, Wire) {
        let (frontend, backend) = UnixStream::pair().unwrap();
        (frontend, Wire::new(backend).unwrap())
    }

    fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [code, flags, u32::try_from(body.len()).unwrap()] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    fn send_with_files(socket: &UnixStream, bytes: &[u8], count: usize) {
        let null = File::open("/dev/null").unwrap();
        let files = vec![null.as_fd(); count];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..5),
            cuts in prop::collection::vec(1_usize..40, 1..50),
        ) {
            let (mut frontend, mut wire) = pair();
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| message(7, VERSION, body)).collect();
            let mut received = Vec::new();
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = rest.len().min(*cuts.next().unwrap());
                frontend.write_all(&rest[..cut]).unwrap();
                rest = &rest[cut..];
                while let Some(message) = wire.receive(Instant::now()).unwrap() {
                    prop_assert_eq!(message.code, 7);
                    received.push(message.body);
                }
            }
            prop_assert_eq!(received, bodies);
        }

        #[test]
        fn noise_ends_in_messages_or_an_error(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut frontend, mut wire) = pair();
            frontend.write_all(&noise).unwrap();
            drop(frontend);
            let mut messages = 0;
            while let Ok(Some(_)) = wire.receive(Instant::now()) {
                messages += 1;
            }
            prop_assert!(messages <= noise.len() / HEADER_BYTES);
        }
    }

    #[test]
    fn a_reply_carries_its_descriptor() {
        let (mut frontend, mut wire) = pair();
        let null = File::open("/dev/null").unwrap();
        wire.reply(31, &[1, 2, 3], Some(null.as_fd())).unwrap();
        let mut bytes = [0; 15];
        let mut files = ArrayVec::new();
        assert_eq!(receive_some(&frontend, &mut bytes, &mut files).unwrap(), Some(15));
        assert_eq!(bytes[..], message(31, VERSION | REPLY, &[1, 2, 3]));
        assert_eq!(files.len(), 1);
        drop(wire);
        assert_eq!(frontend.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn descriptors_come_with_their_message() {
        let (mut frontend, mut wire) = pair();
        let bytes = message(5, VERSION | NEED_REPLY, &[0; 40]);
        send_with_files(&frontend, &bytes[..5], 8);
        assert!(wire.receive(Instant::now()).unwrap().is_none());
        frontend.write_all(&bytes[5..]).unwrap();
        let received = wire.receive(Instant::now()).unwrap().unwrap();
        assert_eq!((received.files.len(), received.needs_reply), (8, true));
        frontend.write_all(&message(1, VERSION, &[])).unwrap();
        assert!(wire.receive(Instant::now()).unwrap().unwrap().files.is_empty());
    }

    #[test]
    fn more_descriptors_than_any_message_has_are_an_error() {
        for count in [FILES_MAX + 1, 253] {
            let (frontend, mut wire) = pair();
            send_with_files(&frontend, &message(5, VERSION, &[0; 8]), count);
            assert!(matches!(wire.receive(Instant::now()), Err(WireError::TooManyFiles)));
        }
        // In one message, but each byte with some.
        let (frontend, mut wire) = pair();
        for byte in message(5, VERSION, &[0; 8]).chunks(1).take(10) {
            send_with_files(&frontend, byte, 20);
        }
        assert!(matches!(wire.receive(Instant::now()), Err(WireError::TooManyFiles)));
    }

    #[test]
    fn a_message_that_does_not_end_is_an_error_in_the_end() {
        let (mut frontend, mut wire) = pair();
        let now = Instant::now();
        assert!(wire.receive(now).unwrap().is_none());
        assert_eq!(wire.deadline(), None);
        frontend.write_all(&message(1, VERSION, &[])[..11]).unwrap();
        assert!(wire.receive(now).unwrap().is_none());
        let deadline = wire.deadline().unwrap();
        assert_eq!(deadline, now + MESSAGE_TIME_MAX);
        assert!(matches!(wire.receive(deadline), Err(WireError::Unfinished)));
        drop(frontend);
        assert!(matches!(wire.receive(now), Err(WireError::CutShort)));
    }

    #[test]
    fn sizes_and_flags_are_checked_before_a_body_is_read() {
        for (bytes, expected) in [
            (message(9, 0x5, &[]), "message 9 has flags 0x5, which are not those of a request"),
            (message(9, 0x2, &[]), "message 9 has flags 0x2, which are not those of a request"),
            (
                [9_u32, VERSION, u32::MAX].iter().flat_map(|word| word.to_ne_bytes()).collect(),
                "message 9 has 4294967295 bytes, more than 4096",
            ),
        ] {
            let (mut frontend, mut wire) = pair();
            frontend.write_all(&bytes).unwrap();
            assert_eq!(wire.receive(Instant::now()).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_frontend_that_takes_no_replies_is_noticed() {
        let (frontend, mut wire) = pair();
        drop(frontend);
        assert!(matches!(wire.reply(1, &[], None), Err(WireError::Closed)));
    }
}
