//! One AF_XDP socket: its memory registration, its rings, its binding to a queue of a device.
//!
//! Not here: what goes through the rings (`queue`), and which mode to ask for (`open`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
        socket_with, sockopt,
        xdp::{
            SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
            XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
            XdpUmemReg, XdpUmemRegFlags,
        },
    },
};

use super::{
    mapping::{MappedRing, map_consumer, map_producer},
    ring::{ConsumerRing, ProducerRing},
};
use crate::memory::{HEADROOM_BYTES, Region};

/// How long a bind is tried again while the queue is busy. A queue that was just closed is busy for
/// some 20 ms; a machine under load can stretch that to seconds.
const BIND_BUSY_MAX: Duration = Duration::from_secs(5);
/// Slots of the rings of a socket that carries nothing.
const PROBE_RING_ENTRIES: u32 = 16;
/// Pause between two tries.
const BIND_RETRY: Duration = Duration::from_millis(5);

/// Slots in each of a socket's four rings. All are powers of two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RingEntries {
    /// Descriptors of received frames.
    pub(super) rx: u32,
    /// Descriptors of frames to send.
    pub(super) tx: u32,
    /// Free frames that the kernel may receive into.
    pub(super) fill: u32,
    /// Sent frames that the kernel is done with. At least `tx`, or the kernel stops sending.
    pub(super) completion: u32,
}

/// The four rings of a socket.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) fill: MappedRing<ProducerRing<u64>>,
    pub(super) completion: MappedRing<ConsumerRing<u64>>,
    pub(super) rx: MappedRing<ConsumerRing<XdpDesc>>,
    pub(super) tx: MappedRing<ProducerRing<XdpDesc>>,
}

/// Proof that the kernel neither reads nor writes any frame that a queue had lent to it.
#[derive(Debug)]
pub(super) struct KernelDone(());

#[cfg(test)]
impl KernelDone {
    /// For tests whose far side is no kernel.
    pub(super) fn without_a_kernel() -> Self {
        Self(())
    }
}

/// An AF_XDP socket. The kernel lets go of its queue some time after this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    /// Kept while the kernel may write to it.
    _region: Arc<Region>,
}

impl Socket {
    /// Makes a socket in the calling thread's network namespace.
    pub(super) fn create(region: Arc<Region>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
        Ok(Self { descriptor, _region: region })
    }

    /// Registers the whole region as this socket's UMEM.
    pub(super) fn register_region(&self, region: &Region) -> io::Result<()> {
        let (start, bytes) = region.umem();
        let registration = XdpUmemReg {
            addr: start as u64,
            len: bytes as u64,
            chunk_size: region.frame_bytes(),
            headroom: u32::from(HEADROOM_BYTES),
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        Ok(sockopt::set_xdp_umem_reg(&self.descriptor, registration)?)
    }

    /// Makes and maps the four rings.
    pub(super) fn map_rings(&self, entries: RingEntries) -> io::Result<Rings> {
        sockopt::set_xdp_umem_fill_ring_size(&self.descriptor, entries.fill)?;
        sockopt::set_xdp_umem_completion_ring_size(&self.descriptor, entries.completion)?;
        sockopt::set_xdp_rx_ring_size(&self.descriptor, entries.rx)?;
        sockopt::set_xdp_tx_ring_size(&self.descriptor, entries.tx)?;
        let offsets = sockopt::xdp_mmap_offsets(&self.descriptor)?;
        let socket = self.descriptor.as_fd();
        Ok(Rings {
            fill: map_producer(socket, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, entries.fill)?,
            completion: map_consumer(
                socket,
                XDP_UMEM_PGOFF_COMPLETION_RING,
                &offsets.cr,
                entries.completion,
            )?,
            rx: map_consumer(socket, XDP_PGOFF_RX_RING, &offsets.rx, entries.rx)?,
            tx: map_producer(socket, XDP_PGOFF_TX_RING, &offsets.tx, entries.tx)?,
        })
    }

    /// Binds to a queue. May sleep while the queue is busy, up to [`BIND_BUSY_MAX`].
    pub(super) fn bind(
        &self,
        interface_index: u32,
        queue: u32,
        flags: SocketAddrXdpFlags,
    ) -> io::Result<()> {
        let address = SocketAddrXdp::new(flags, interface_index, queue);
        retry_while_busy(|| bind(&self.descriptor, &address))
    }

    /// Binds to a queue of the same device as `first`, over the UMEM and in the mode of `first`.
    pub(super) fn bind_shared(
        &self,
        interface_index: u32,
        queue: u32,
        first: &Self,
    ) -> io::Result<()> {
        let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
        let address = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(flags, interface_index, queue),
            shared_umem_fd: first.descriptor.as_fd(),
        };
        retry_while_busy(|| bind(&self.descriptor, &address))
    }

    /// Closes a socket in copy mode, of which `rings` are the only mappings.
    ///
    /// When the last reference to such a socket goes (a mapping is one), the kernel unhooks it from
    /// its device and waits for every receive path that is under way: after that nothing is
    /// received into the UMEM any more. Sending copies first, except on devices that send from the
    /// UMEM's pages: the caller has waited for what was under way.
    pub(super) fn close_copy_mode(self, rings: Rings) -> KernelDone {
        drop(rings);
        drop(self);
        KernelDone(())
    }

    /// Makes the kernel look at the tx ring.
    pub(super) fn wake_tx(&self) -> Result<(), Errno> {
        send(&self.descriptor, &[], SendFlags::DONTWAIT).map(|_| ())
    }

    /// Makes the driver look at the fill ring.
    pub(super) fn wake_rx(&self) -> Result<(), Errno> {
        recv(&self.descriptor, &mut [0_u8; 0], RecvFlags::DONTWAIT).map(|_| ())
    }

    /// Received frames that the kernel dropped: no free frame, no room in the rx ring, or too
    /// large.
    pub(super) fn rx_dropped(&self) -> io::Result<u64> {
        let statistics = sockopt::xdp_statistics(&self.descriptor)?;
        // A full rx ring is counted apart from the other causes.
        Ok(statistics.rx_dropped + statistics.rx_ring_full.unwrap_or(0))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Tells when the kernel has let go of a queue that was bound in zero copy.
///
/// There the driver's queue is torn down some time after the close. Nothing announces it; but as
/// long as it is not done, nobody can bind to the queue, so binding to it is the proof.
#[derive(Debug)]
pub(super) struct ReleaseProbe {
    socket: Socket,
    interface_index: u32,
    queue: u32,
    is_prepared: bool,
}

impl ReleaseProbe {
    /// Makes a probe in the calling thread's network namespace: the device's.
    pub(super) fn create(
        region: Arc<Region>,
        interface_index: u32,
        queue: u32,
    ) -> io::Result<Self> {
        let socket = Socket::create(region)?;
        Ok(Self { socket, interface_index, queue, is_prepared: false })
    }

    /// Whether the kernel has let go of the queue; an error says that this cannot be told yet.
    pub(super) fn is_released(&mut self, region: &Region) -> io::Result<Option<KernelDone>> {
        if !self.is_prepared {
            self.socket.register_region(region)?;
            let descriptor = &self.socket.descriptor;
            sockopt::set_xdp_umem_fill_ring_size(descriptor, PROBE_RING_ENTRIES)?;
            sockopt::set_xdp_umem_completion_ring_size(descriptor, PROBE_RING_ENTRIES)?;
            sockopt::set_xdp_rx_ring_size(descriptor, PROBE_RING_ENTRIES)?;
            self.is_prepared = true;
        }
        let flags = SocketAddrXdpFlags::XDP_COPY;
        let address = SocketAddrXdp::new(flags, self.interface_index, self.queue);
        match bind(&self.socket.descriptor, &address) {
            Ok(()) | Err(Errno::NODEV | Errno::NXIO) => Ok(Some(KernelDone(()))),
            Err(Errno::BUSY) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn retry_while_busy(mut operation: impl FnMut() -> Result<(), Errno>) -> io::Result<()> {
    let deadline = Instant::now() + BIND_BUSY_MAX;
    loop {
        match operation() {
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(BIND_RETRY),
            result => return Ok(result?),
        }
    }
}
