//! Where an uplink's program lives on when the engine does not.
//!
//! On real NICs attaching a program drops the carrier for seconds. So the uplink's link to its
//! program is pinned in the BPF file system: without the engine the program finds no socket and
//! passes everything to the kernel; the next engine finds it at work and only fills its maps. A
//! program that was built from other source is replaced in place, which leaves the carrier alone
//! too.
//!
//! The file is named after the network namespace and the interface, such as
//! `/sys/fs/bpf/vrouter/4026531840-eth0`. To detach the program for good, remove the file while the
//! engine is stopped.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData, MapType},
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};

use super::{
    interface::Interface,
    program::{AttachedProgram, LoadedProgram, ProgramMaps, TunnelMaps},
};

/// The BPF file system's number, as `statfs` tells it.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The pin of one interface.
#[derive(Debug)]
pub(super) struct Pin {
    path: PathBuf,
}

impl Pin {
    /// The pin of an interface of the calling thread's namespace, in `folder`, which must lie in a
    /// BPF file system.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the folder lies elsewhere.
    pub(super) fn prepare(folder: &Path, interface: &str) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
        let kind = u64::try_from(rustix::fs::statfs(existing)?.f_type).unwrap_or(0);
        if kind != BPF_FS_MAGIC {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fs::create_dir_all(folder)?;
        Ok(Self { path: folder.join(format!("{namespace}-{interface}")) })
    }

    /// Finds the program that an earlier engine left at work on `interface`. One of other source is
    /// replaced by `loaded`.
    ///
    /// `None` if there is none that is still attached; what is left of one that is not is removed.
    pub(super) fn find(
        &self,
        interface: &Interface,
        loaded: &mut LoadedProgram,
    ) -> Option<AttachedProgram> {
        let found = self.try_find(interface, loaded);
        if found.is_none() {
            // Most often there is nothing to remove.
            let _ = fs::remove_file(&self.path);
        }
        found
    }

    /// Pins a link.
    pub(super) fn keep(&self, link: XdpLink) -> Result<XdpLink, Box<dyn Error + Send + Sync>> {
        let pinned = FdLink::try_from(link)?.pin(&self.path)?;
        Ok(FdLink::from(pinned).try_into()?)
    }

    fn try_find(
        &self,
        interface: &Interface,
        loaded: &mut LoadedProgram,
    ) -> Option<AttachedProgram> {
        let (attached_id, is_native) = interface.program?;
        let link = FdLink::from(PinnedLink::from_pin(&self.path).ok()?);
        if link.info().ok()?.program_id() != attached_id {
            return None;
        }
        let link = XdpLink::try_from(link).ok()?;
        let attached = loaded_programs().flatten().find(|program| program.id() == attached_id)?;
        let program = loaded.program().ok()?;
        if program.info().ok()?.tag() == attached.tag()
            && let Some(maps) = maps_of(&attached)
        {
            return Some(AttachedProgram::new(maps, link, is_native));
        }
        let id = program.attach_to_link(link).ok()?;
        let link = program.take_link(id).ok()?;
        Some(AttachedProgram::new(loaded.take_maps().ok()?, link, is_native))
    }
}

/// The maps of a program that is at work, told apart by their types and keys.
fn maps_of(program: &ProgramInfo) -> Option<ProgramMaps> {
    let (mut sockets, mut addresses, mut udp_ports) = (None, None, None);
    for id in program.map_ids().ok()?? {
        let map = MapData::from_id(id).ok()?;
        let information = map.info().ok()?;
        match (information.map_type().ok()?, information.key_size()) {
            (MapType::XskMap, _) => sockets = Map::XskMap(map).try_into().ok(),
            (MapType::Hash, 16) => addresses = Map::HashMap(map).try_into().ok(),
            (MapType::Hash, 2) => udp_ports = Map::HashMap(map).try_into().ok(),
            // What the program remembers of fragments is its own affair.
            (MapType::LruHash, _) => {}
            _ => return None,
        }
    }
    let tunnels = TunnelMaps { addresses: addresses?, udp_ports: udp_ports? };
    Some(ProgramMaps { sockets: sockets?, tunnels: Some(tunnels) })
}
