//! Ports over TAP: what is sent comes in at the kernel's end of the interface, and what the kernel
//! sends through it is received.
//!
//! One system call a frame. Without a virtio-net header, so no checksum is left to the other side.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
};

use super::{
    Halves, OpenPortError, RxPort, TxPort,
    interface::{Interface, attach_tap, check_that_exists},
    timespec,
};
use crate::pktgen::{BURST_FRAMES, FCS_BYTES, frames::FRAME_BYTES_MAX};

/// Where TAP interfaces come from.
const DEVICE: &str = "/dev/net/tun";
/// The counters of the interfaces of the calling thread's namespace.
const COUNTERS: &str = "/proc/thread-self/net/dev";
/// How long the kernel may refuse to take a frame.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn open(interface: &str) -> Result<Halves, OpenPortError> {
    // Else the kernel would make a new one, which nobody has prepared.
    check_that_exists(interface)?;
    let no_device = |source| OpenPortError::NoTunDevice { source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(DEVICE)
        .map_err(no_device)?;
    attach_tap(&file, interface)?;
    // It has a carrier from now on.
    let facts = Interface::look(interface)?;
    let copy = file.try_clone().map_err(no_device)?;
    let tx = TapTx {
        file: copy,
        scratch: vec![0; FRAME_BYTES_MAX],
        frame_bytes_max: (facts.mtu_bytes + 14 + FCS_BYTES).min(FRAME_BYTES_MAX),
    };
    let rx = TapRx { file, scratch: vec![0; FRAME_BYTES_MAX], interface: interface.to_owned() };
    Ok((Box::new(tx), Box::new(rx)))
}

struct TapTx {
    file: File,
    scratch: Vec<u8>,
    frame_bytes_max: usize,
}

impl TxPort for TapTx {
    fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> io::Result<usize> {
        let count = count.min(BURST_FRAMES);
        for _ in 0..count {
            let bytes = write(&mut self.scratch);
            let frame = self.scratch.get(..bytes).unwrap_or_default();
            loop {
                match self.file.write(frame) {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if !wait(&self.file, PollFlags::OUT, WRITE_PATIENCE)? {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<usize> {
        Ok(0)
    }
}

struct TapRx {
    file: File,
    scratch: Vec<u8>,
    interface: String,
}

impl RxPort for TapRx {
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        for count in 0..BURST_FRAMES {
            match self.file.read(&mut self.scratch) {
                Ok(bytes) => take(self.scratch.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(count),
                Err(error) => return Err(error),
            }
        }
        Ok(BURST_FRAMES)
    }

    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        wait(&self.file, PollFlags::IN, limit).map(|_| ())
    }

    fn lost(&self) -> io::Result<u64> {
        let text = fs::read_to_string(COUNTERS)?;
        tx_dropped(&text, &self.interface).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What the interface's queue had no room for: the thirteenth word of its line, its name included.
fn tx_dropped(counters: &str, interface: &str) -> Option<u64> {
    let counts = counters.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == interface).then_some(counts)
    })?;
    counts.split_whitespace().nth(11)?.parse().ok()
}

/// Whether the file is ready in time.
fn wait(file: &File, flags: PollFlags, limit: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(file.as_fd(), flags)];
    match poll(&mut polled, Some(&timespec(limit))) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_kernels_table() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 \
                     13 14 15 16\n  tap0: 0 0 0 0 0 0 0 0 0 0 0 77 0 0 0 0\n";
        assert_eq!(tx_dropped(table, "tap0"), Some(77));
        assert_eq!(tx_dropped(table, "lo"), Some(12));
        assert_eq!(tx_dropped(table, "tap"), None);
    }
}
