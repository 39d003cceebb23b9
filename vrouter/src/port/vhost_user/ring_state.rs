//! What a frontend has said of one ring so far.

use std::{io, os::fd::OwnedFd, sync::Arc};

use super::{
    features,
    inflight::InflightRegion,
    log::{DirtyLog, RingLog},
    memory::GuestMemory,
    request::RingAddresses,
    ring::{Ring, RingError, RingFeatures, RingFormat, RingPosition, RingSetup},
};

/// A ring, as far as it is set up.
#[derive(Debug, Default)]
pub(super) struct RingState {
    /// Zero until the frontend says.
    pub(super) entries: u16,
    pub(super) addresses: Option<RingAddresses>,
    /// Where to go on, as the protocol's number; `None`: at the start.
    pub(super) base: Option<u32>,
    /// That is where a worker left off, and not what the frontend believes.
    pub(super) is_resumed: bool,
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
    /// Where to tell of a fault.
    pub(super) error: Option<OwnedFd>,
    /// From the message with the descriptor for kicks to the one that asks where the ring stands.
    pub(super) is_started: bool,
    /// As the frontend said, which it may before it acknowledges features.
    pub(super) is_enabled: Option<bool>,
}

/// What all rings of a guest have in common.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) features: u64,
    pub(super) memory: &'a Arc<GuestMemory>,
    pub(super) log: Option<&'a Arc<DirtyLog>>,
}

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeRingError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("there are no descriptors left; raise the limit of open files")]
    Descriptors(#[source] io::Error),
}

impl RingState {
    /// Whether all is said that it takes, and the ring is to be worked on.
    pub(super) fn is_ready(&self, features: u64) -> bool {
        // Without protocol features there is no message to enable a ring.
        let is_enabled = self.is_enabled.unwrap_or(features & features::PROTOCOL_FEATURES == 0);
        self.is_started && is_enabled && self.entries > 0 && self.addresses.is_some()
    }

    /// Makes the ring. Descriptors are copied, so that it can be made again.
    pub(super) fn make(
        &self,
        around: &Surroundings<'_>,
        inflight: Option<InflightRegion>,
    ) -> Result<Option<Ring>, MakeRingError> {
        let Some(addresses) = self.addresses else { return Ok(None) };
        let format = format(around.features);
        let copy = |file: &Option<OwnedFd>| {
            file.as_ref().map(OwnedFd::try_clone).transpose().map_err(MakeRingError::Descriptors)
        };
        let start = RingPosition::start(format);
        let setup = RingSetup {
            memory: Arc::clone(around.memory),
            format,
            size: self.entries,
            descriptor_area: addresses.descriptor_area,
            driver_area: addresses.driver_area,
            device_area: addresses.device_area,
            position: self.base.map_or(start, |base| RingPosition::from_base(format, base)),
            is_resumed: self.is_resumed,
            features: ring_features(around.features),
            kick: copy(&self.kick)?,
            call: copy(&self.call)?,
            log: around.log.map(|log| RingLog {
                log: Arc::clone(log),
                ring_address: written_address(&addresses, format, around.memory),
            }),
            inflight,
        };
        Ok(Some(Ring::new(setup)?))
    }
}

/// How rings lie in memory.
pub(super) fn format(features: u64) -> RingFormat {
    if features & features::RING_PACKED == 0 { RingFormat::Split } else { RingFormat::Packed }
}

fn ring_features(features: u64) -> RingFeatures {
    let has = |bit| features & bit != 0;
    RingFeatures {
        event_index: has(features::EVENT_IDX),
        indirect: has(features::INDIRECT_DESC),
        mergeable: has(features::MRG_RXBUF),
        version_1: has(features::VERSION_1),
    }
}

/// The guest address of the ring's words that we write, if they are to be logged: the used ring, as
/// the frontend says, or the descriptors of a packed ring, whose guest address it does not say.
fn written_address(
    addresses: &RingAddresses,
    format: RingFormat,
    memory: &GuestMemory,
) -> Option<u64> {
    let used = addresses.log?;
    if format == RingFormat::Split {
        return Some(used);
    }
    memory.regions().iter().find_map(|region| {
        let offset = addresses.descriptor_area.checked_sub(region.user_address)?;
        let is_inside = usize::try_from(offset).is_ok_and(|it| it < region.mapped.bytes());
        is_inside.then(|| region.guest_address.wrapping_add(offset))
    })
}
