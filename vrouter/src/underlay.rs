//! The underlay: how the kernel would reach other nodes, kept up to date.
//!
//! The uplink's program leaves ARP, ND and routing protocols to the kernel, so the kernel knows the
//! way. The engine's main thread asks it over netlink for each tunnel's remote end: route,
//! interface, neighbour; and follows what changes. Neighbours are kept resolved with *managed*
//! entries (Linux 5.16): the kernel itself probes them again and again, with or without traffic.
//! Older kernels are reminded by us.
//!
//! ```text
//! remote ──route──► (interface, next hop) ──neighbour──► MAC address        Way::Resolved
//!    ▲                  │ link down, gone      │ failed, changed
//!    └── routes changed ┴───────── events ─────┘
//! ```
//!
//! A next hop that the kernel asks for *again* keeps its MAC address meanwhile, for a while: the
//! kernel forgets neighbours for many reasons, and packets need not die for any of them.
//!
//! Why the plain netlink socket and no asynchronous one: the library has no runtime, a question is
//! answered within microseconds, and events are read when the descriptor says so. Not here: what a
//! way means for a tunnel (`config`). What was weighed: docs/design/0004-underlay-netlink.md.

mod events;
mod kernel;
mod neighbours;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::IpAddr,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use encap::MacAddress;

use self::{
    events::{Event, Events},
    kernel::{Kernel, NeighbourEntry, Route},
    neighbours::Neighbours,
};

/// The shortest time between two looks at all routes: where pods come and go, routes change in
/// bursts.
const RESOLVE_ALL_INTERVAL: Duration = Duration::from_millis(100);
/// How often all ways are looked at without a reason: policy routing and the like change without an
/// event that we follow. Also how often a kernel without managed neighbours is reminded.
const RESOLVE_ALL_PERIOD: Duration = Duration::from_secs(10);
/// Targets that one event makes us look at at once; if it concerns more, they wait for
/// [`RESOLVE_ALL_INTERVAL`]. So many take some two milliseconds.
const RESOLVE_AT_ONCE_MAX: usize = 256;
/// How long a next hop keeps its MAC address while the kernel asks for it again: the kernel itself
/// gives up after three questions, a second apart. A neighbour that failed loses it at once.
pub const NEIGHBOUR_PENDING_MAX: Duration = Duration::from_secs(3);

/// How the underlay reaches an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// Through a neighbour whose MAC address is known.
    Resolved(Hop),
    /// It does not.
    Unresolved(Obstacle),
}

/// The next hop toward an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hop {
    /// The interface that it is behind, by the kernel's number.
    pub interface_index: u32,
    /// The interface's name.
    pub interface: String,
    /// The next hop's address: a gateway, or the address itself.
    pub address: IpAddr,
    /// Our MAC address there.
    pub source_mac: MacAddress,
    /// The next hop's.
    pub destination_mac: MacAddress,
    /// The largest IP packet that the route carries, as far as the kernel knows.
    pub mtu_bytes: u32,
}

/// Why the underlay does not reach an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Obstacle {
    #[error("not looked at yet")]
    Unknown,
    #[error("no route")]
    NoRoute,
    #[error("it is an address of this node")]
    Local,
    #[error("{interface} is down")]
    LinkDown { interface: String },
    #[error("{interface} has no MAC address")]
    NoMac { interface: String },
    #[error("neighbour {address} on {interface} is being asked")]
    NeighbourPending { interface: String, address: IpAddr },
    #[error("neighbour {address} on {interface} does not answer")]
    NeighbourFailed { interface: String, address: IpAddr },
}

/// What happened on the underlay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// An address is reached another way.
    Way {
        /// The address: one of those given to [`Underlay::set_targets`].
        remote: IpAddr,
        /// How it is reached now.
        way: Way,
    },
    /// An interface is gone, and with it whatever port was on it: its rings say nothing any more.
    InterfaceGone {
        /// The kernel's number for it.
        interface_index: u32,
        /// Its name.
        interface: String,
    },
    /// An interface has another MTU.
    Mtu {
        /// The kernel's number for it.
        interface_index: u32,
        /// The largest IP packet, in bytes.
        mtu_bytes: u32,
    },
}

/// An interface, as far as ways depend on it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Link {
    name: String,
    /// Up, and with a carrier.
    is_up: bool,
    mtu_bytes: u32,
    mac: Option<MacAddress>,
}

/// A next hop on an interface.
type NeighbourKey = (u32, IpAddr);

/// Follows the kernel's links, routes and neighbours, in the network namespace of the thread that
/// opened it.
#[derive(Debug)]
pub struct Underlay {
    kernel: Kernel,
    events: Events,
    links: BTreeMap<u32, Link>,
    targets: BTreeMap<IpAddr, Target>,
    neighbours: Neighbours,
    /// Targets to look at in the next poll.
    stale_targets: BTreeSet<IpAddr>,
    /// All of them are to be looked at, as soon as the interval allows.
    is_all_stale: bool,
    all_resolved_at: Option<Instant>,
    /// Targets whose next hop is being asked for again, and since when.
    pending: BTreeMap<IpAddr, Instant>,
    /// Something happened that we were not told.
    is_out_of_step: bool,
    /// What the next successful poll tells.
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Target {
    route: Option<NeighbourKey>,
    way: Way,
}

impl Target {
    fn is_via(&self, interface_index: u32) -> bool {
        self.route.is_some_and(|(index, _)| index == interface_index)
    }
}

impl Underlay {
    /// Starts to follow the kernel.
    ///
    /// # Errors
    ///
    /// Fails if the kernel's netlink is not there or has no room.
    pub fn open() -> io::Result<Self> {
        // Events first: what happens between them and the dump is then seen twice, not missed.
        let events = Events::subscribe()?;
        let mut kernel = Kernel::connect()?;
        let links = kernel.links()?;
        Ok(Self {
            kernel,
            events,
            links,
            targets: BTreeMap::new(),
            neighbours: Neighbours::default(),
            stale_targets: BTreeSet::new(),
            is_all_stale: false,
            all_resolved_at: None,
            pending: BTreeMap::new(),
            is_out_of_step: false,
            changes: Vec::new(),
        })
    }

    /// Says which addresses to keep a way to. Their ways come with the next [`Self::poll`].
    pub fn set_targets(&mut self, remotes: impl IntoIterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = remotes.into_iter().collect();
        if self.targets.keys().eq(&wanted) {
            return;
        }
        self.targets.retain(|remote, _| wanted.contains(remote));
        self.pending.retain(|remote, _| wanted.contains(remote));
        self.neighbours.users_changed();
        for remote in wanted {
            self.targets.entry(remote).or_insert_with(|| {
                self.stale_targets.insert(remote);
                Target { route: None, way: Way::Unresolved(Obstacle::Unknown) }
            });
        }
    }

    /// Takes in what happened, looks again at what it touches, and returns what is different from
    /// before. Does not wait.
    ///
    /// # Errors
    ///
    /// Fails if the kernel cannot be asked. Everything is looked at again in a later call, and what
    /// was found different until then is told by the next one that succeeds.
    pub fn poll(&mut self, now: Instant) -> io::Result<Vec<Change>> {
        let result = self.follow(now);
        // Changes may be of use to nobody before all of them are known, but are never lost.
        result.inspect_err(|_| self.is_all_stale = true)?;
        Ok(mem::take(&mut self.changes))
    }

    /// When [`Self::poll`] wants to be called again even if [`Self::descriptor`] is silent.
    #[must_use]
    pub fn next_poll(&self) -> Instant {
        let pause = if self.is_all_stale { RESOLVE_ALL_INTERVAL } else { RESOLVE_ALL_PERIOD };
        let all = self.all_resolved_at.map_or_else(Instant::now, |then| then + pause);
        let pending = self.pending.values().map(|since| *since + NEIGHBOUR_PENDING_MAX);
        pending.chain(self.neighbours.next_release()).fold(all, Instant::min)
    }

    /// Readable when something happened.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.events.descriptor()
    }

    /// How an address is reached, if it is one of the targets.
    #[must_use]
    pub fn way(&self, remote: IpAddr) -> Option<&Way> {
        self.targets.get(&remote).map(|target| &target.way)
    }

    /// The next hops in use: interface, address, MAC address if known, and the state's name.
    pub fn neighbours(&self) -> impl Iterator<Item = Neighbour<'_>> {
        self.neighbours.iter().map(|((interface_index, address), entry)| Neighbour {
            interface: self.links.get(&interface_index).map_or("", |link| link.name.as_str()),
            address,
            mac: entry.mac(),
            state: entry.name(),
        })
    }

    fn follow(&mut self, now: Instant) -> io::Result<()> {
        let mut events = Vec::new();
        let read = self.events.read(&mut events);
        // Those that were read are told once only.
        for event in events {
            self.take_in(event);
        }
        if read.is_err() {
            self.is_out_of_step = true;
        }
        read?;
        if self.is_out_of_step {
            self.start_over()?;
            self.is_out_of_step = false;
        }
        let since_all = self.all_resolved_at.map(|then| now.saturating_duration_since(then));
        let is_due = since_all.is_none_or(|since| {
            since >= RESOLVE_ALL_PERIOD || self.is_all_stale && since >= RESOLVE_ALL_INTERVAL
        });
        if is_due {
            self.all_resolved_at = Some(now);
            self.is_all_stale = false;
            self.stale_targets.extend(self.targets.keys());
            self.neighbours.remind(&mut self.kernel)?;
        }
        let overdue =
            self.pending.iter().filter(|(_, since)| now >= **since + NEIGHBOUR_PENDING_MAX);
        self.stale_targets.extend(overdue.map(|(remote, _)| *remote));
        while let Some(remote) = self.stale_targets.first().copied() {
            if self.targets.contains_key(&remote) {
                let way = self.resolve(remote, now)?;
                self.set_way(remote, way);
            }
            self.stale_targets.remove(&remote);
        }
        let used = || self.targets.values().filter_map(|target| target.route).collect();
        self.neighbours.release_unused(&mut self.kernel, used, now);
        Ok(())
    }

    fn set_way(&mut self, remote: IpAddr, way: Way) {
        let Some(target) = self.targets.get_mut(&remote) else { return };
        if target.way != way {
            target.way = way.clone();
            self.changes.push(Change::Way { remote, way });
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Link(interface_index, link) => self.take_in_link(interface_index, link),
            Event::LinkGone(interface_index) => self.lose_link(interface_index),
            Event::Routes(prefix) => self
                .mark_stale_all(|remote, _| prefix.is_none_or(|prefix| prefix.contains(&remote))),
            Event::Neighbour(key, entry) => {
                if self.neighbours.set(key, entry) {
                    self.mark_stale(key);
                }
            }
            Event::NeighbourGone(key) => {
                // Looked up anew, and asked for anew if it is still the next hop.
                if self.neighbours.forget(key) {
                    self.mark_stale(key);
                }
            }
            Event::Lost => self.is_out_of_step = true,
        }
    }

    fn take_in_link(&mut self, interface_index: u32, link: Link) {
        let before = self.links.get(&interface_index);
        if before == Some(&link) {
            return;
        }
        if before.is_some_and(|before| before.mtu_bytes != link.mtu_bytes) {
            let mtu_bytes = link.mtu_bytes;
            self.changes.push(Change::Mtu { interface_index, mtu_bytes });
        }
        let came_up = link.is_up && !before.is_some_and(|before| before.is_up);
        self.links.insert(interface_index, link);
        // With a link routes come back of which nobody tells.
        self.mark_stale_all(|_, target| {
            target.is_via(interface_index) || came_up && !matches!(target.way, Way::Resolved(_))
        });
        self.is_all_stale |= came_up;
    }

    /// We were not told everything: what is there now is compared with what was known.
    fn start_over(&mut self) -> io::Result<()> {
        let links = self.kernel.links()?;
        let gone: Vec<u32> =
            self.links.keys().filter(|index| !links.contains_key(index)).copied().collect();
        for interface_index in gone {
            self.lose_link(interface_index);
        }
        for (interface_index, link) in links {
            self.take_in_link(interface_index, link);
        }
        self.is_all_stale = true;
        self.neighbours.remind(&mut self.kernel)
    }

    fn lose_link(&mut self, interface_index: u32) {
        if let Some(link) = self.links.remove(&interface_index) {
            let interface = link.name;
            self.changes.push(Change::InterfaceGone { interface_index, interface });
        }
        self.neighbours.lose_interface(interface_index);
        self.mark_stale_all(|_, target| target.is_via(interface_index));
    }

    /// Those targets are looked at in this poll, unless they are many.
    fn mark_stale_all(&mut self, is_concerned: impl Fn(IpAddr, &Target) -> bool) {
        let concerned =
            self.targets.iter().filter(|(remote, target)| is_concerned(**remote, target));
        let concerned: Vec<_> =
            concerned.map(|(remote, _)| *remote).take(RESOLVE_AT_ONCE_MAX + 1).collect();
        if concerned.len() > RESOLVE_AT_ONCE_MAX {
            self.is_all_stale = true;
        } else {
            self.stale_targets.extend(concerned);
        }
    }

    /// In a routed fabric one next hop is that of all targets.
    fn mark_stale(&mut self, key: NeighbourKey) {
        self.mark_stale_all(|_, target| target.route == Some(key));
    }

    fn resolve(&mut self, remote: IpAddr, now: Instant) -> io::Result<Way> {
        let route = self.kernel.route(remote)?;
        let key = match &route {
            Route::Via { interface_index, next_hop, .. } => Some((*interface_index, *next_hop)),
            Route::None | Route::Local => None,
        };
        if let Some(target) = self.targets.get_mut(&remote)
            && target.route != key
        {
            target.route = key;
            self.neighbours.users_changed();
        }
        let since = self.pending.remove(&remote);
        let (interface_index, address, route_mtu) = match route {
            Route::None => return Ok(Way::Unresolved(Obstacle::NoRoute)),
            Route::Local => return Ok(Way::Unresolved(Obstacle::Local)),
            Route::Via { interface_index, next_hop, mtu_bytes } => {
                (interface_index, next_hop, mtu_bytes)
            }
        };
        let Some(link) = self.links.get(&interface_index) else {
            // A link that came up this very moment: its event is on the way, and makes everything
            // stale.
            self.is_all_stale = true;
            return Ok(Way::Unresolved(Obstacle::Unknown));
        };
        if !link.is_up {
            return Ok(Way::Unresolved(Obstacle::LinkDown { interface: link.name.clone() }));
        }
        let key = (interface_index, address);
        let (mut entry, is_different) = self.neighbours.look_at(&mut self.kernel, key)?;
        if entry == NeighbourEntry::Pending
            && let Some(mac) = self.last_mac(remote, key)
        {
            let since = since.unwrap_or(now);
            if now.saturating_duration_since(since) < NEIGHBOUR_PENDING_MAX {
                self.pending.insert(remote, since);
                entry = NeighbourEntry::Resolved(mac);
            }
        }
        let way = way(interface_index, link, address, entry, route_mtu);
        if is_different {
            self.mark_stale(key);
        }
        Ok(way)
    }

    /// The MAC address that a target's packets go to now, if that is through this next hop.
    fn last_mac(&self, remote: IpAddr, key: NeighbourKey) -> Option<MacAddress> {
        match &self.targets.get(&remote)?.way {
            Way::Resolved(hop) if (hop.interface_index, hop.address) == key => {
                Some(hop.destination_mac)
            }
            Way::Resolved(_) | Way::Unresolved(_) => None,
        }
    }
}

/// A next hop on the underlay, for the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Neighbour<'a> {
    /// The interface that it is behind.
    pub interface: &'a str,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, if known.
    pub mac: Option<MacAddress>,
    /// "resolved", "pending", "failed" or "static".
    pub state: &'static str,
}

fn way(
    interface_index: u32,
    link: &Link,
    address: IpAddr,
    entry: NeighbourEntry,
    route_mtu: Option<u32>,
) -> Way {
    let interface = link.name.clone();
    let Some(source_mac) = link.mac else {
        return Way::Unresolved(Obstacle::NoMac { interface });
    };
    let destination_mac = match entry {
        NeighbourEntry::Resolved(mac) | NeighbourEntry::Static(mac) => mac,
        NeighbourEntry::Pending => {
            return Way::Unresolved(Obstacle::NeighbourPending { interface, address });
        }
        NeighbourEntry::Failed => {
            return Way::Unresolved(Obstacle::NeighbourFailed { interface, address });
        }
    };
    let mtu_bytes = route_mtu.map_or(link.mtu_bytes, |bytes| bytes.min(link.mtu_bytes));
    Way::Resolved(Hop {
        interface_index,
        interface,
        address,
        source_mac,
        destination_mac,
        mtu_bytes,
    })
}
