//! The device's configuration space (`VirtIO` 1.2 section 5.1.4), for frontends that ask the
//! backend for it. QEMU and DPDK make one themselves.

/// Bytes of a device's configuration space, as far as the protocol goes.
const CONFIG_BYTES: usize = 256;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;
/// A speed that is not known.
const SPEED_UNKNOWN: u32 = u32::MAX;
/// A duplex mode that is not known.
const DUPLEX_UNKNOWN: u8 = u8::MAX;

/// What the guest reads.
#[derive(Clone, Debug)]
pub(super) struct ConfigSpace([u8; CONFIG_BYTES]);

impl ConfigSpace {
    /// A link that is up.
    pub(super) fn new(mac_address: [u8; 6], queue_pairs: u16, mtu_bytes: u16) -> Self {
        let mut bytes = [0; CONFIG_BYTES];
        let fields = mac_address
            .into_iter()
            .chain(LINK_UP.to_le_bytes())
            .chain(queue_pairs.to_le_bytes())
            .chain(mtu_bytes.to_le_bytes())
            .chain(SPEED_UNKNOWN.to_le_bytes())
            .chain([DUPLEX_UNKNOWN]);
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        Self(bytes)
    }

    /// A part of it; `None` if it does not have so much.
    pub(super) fn read(&self, offset: u32, bytes: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        self.0.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_standard_has_them() {
        let space = ConfigSpace::new([1, 2, 3, 4, 5, 6], 4, 9000);
        assert_eq!(space.read(0, 6), Some(&[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(space.read(6, 6), Some(&[1, 0, 4, 0, 0x28, 0x23][..]));
        assert_eq!(space.read(255, 1), Some(&[0][..]));
        assert_eq!(space.read(255, 2), None);
        assert_eq!(space.read(u32::MAX, u32::MAX), None);
    }
}
