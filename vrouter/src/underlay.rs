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
//! Why the plain netlink socket and no asynchronous one: the library has no runtime, a question is
//! answered within microseconds, and events are read when the descriptor says so. Not here: what a
//! way means for a tunnel (`config`).

mod events;
mod kernel;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use encap::MacAddress;

use self::{
    events::{Event, Events},
    kernel::{Kernel, NeighbourEntry, Route},
};

/// The shortest time between two looks at all routes: where pods come and go, routes change in
/// bursts.
const RESOLVE_ALL_INTERVAL: Duration = Duration::from_millis(100);
/// How often all ways are looked at without a reason: policy routing and the like change without an
/// event that we follow. Also how often a kernel without managed neighbours is reminded.
const RESOLVE_ALL_PERIOD: Duration = Duration::from_secs(10);

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
    /// The next hops in use, and what the kernel said about them last.
    neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// Targets to look at in the next poll.
    stale_targets: BTreeSet<IpAddr>,
    /// All of them are to be looked at, as soon as the interval allows.
    is_all_stale: bool,
    all_resolved_at: Option<Instant>,
}

#[derive(Debug)]
struct Target {
    route: Option<NeighbourKey>,
    way: Way,
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
            neighbours: BTreeMap::new(),
            stale_targets: BTreeSet::new(),
            is_all_stale: false,
            all_resolved_at: None,
        })
    }

    /// Says which addresses to keep a way to. Their ways come with the next [`Self::poll`].
    pub fn set_targets(&mut self, remotes: impl IntoIterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = remotes.into_iter().collect();
        self.targets.retain(|remote, _| wanted.contains(remote));
        for remote in wanted {
            self.targets.entry(remote).or_insert_with(|| {
                self.stale_targets.insert(remote);
                Target { route: None, way: Way::Unresolved(Obstacle::Unknown) }
            });
        }
        self.release_neighbours();
    }

    /// Takes in what happened, looks again at what it touches, and returns what is different from
    /// before. Does not wait.
    ///
    /// # Errors
    ///
    /// Fails if the kernel cannot be asked. What was not looked at is looked at in the next call.
    pub fn poll(&mut self, now: Instant) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for event in self.events.read()? {
            self.take_in(event, &mut changes)?;
        }
        let since_all = self.all_resolved_at.map(|then| now.saturating_duration_since(then));
        let is_due = since_all.is_none_or(|since| {
            since >= RESOLVE_ALL_PERIOD || self.is_all_stale && since >= RESOLVE_ALL_INTERVAL
        });
        if is_due {
            self.all_resolved_at = Some(now);
            self.is_all_stale = false;
            self.stale_targets.extend(self.targets.keys());
            self.remind_neighbours()?;
        }
        while let Some(remote) = self.stale_targets.first().copied() {
            let way = self.resolve(remote)?;
            self.stale_targets.remove(&remote);
            let Some(target) = self.targets.get_mut(&remote) else { continue };
            if target.way != way {
                target.way = way.clone();
                changes.push(Change::Way { remote, way });
            }
        }
        self.release_neighbours();
        Ok(changes)
    }

    /// When [`Self::poll`] wants to be called again even if [`Self::descriptor`] is silent.
    #[must_use]
    pub fn next_poll(&self) -> Instant {
        let pause = if self.is_all_stale { RESOLVE_ALL_INTERVAL } else { RESOLVE_ALL_PERIOD };
        self.all_resolved_at.map_or_else(Instant::now, |then| then + pause)
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
        self.neighbours.iter().map(|(&(interface_index, address), entry)| Neighbour {
            interface: self.links.get(&interface_index).map_or("", |link| link.name.as_str()),
            address,
            mac: entry.mac(),
            state: entry.name(),
        })
    }

    fn take_in(&mut self, event: Event, changes: &mut Vec<Change>) -> io::Result<()> {
        match event {
            Event::Link(interface_index, link) => {
                let mut routes = self.targets.values().filter_map(|target| target.route);
                let is_used = routes.any(|(index, _)| index == interface_index);
                let mtu_bytes = link.mtu_bytes;
                let before = self.links.insert(interface_index, link);
                if before.as_ref() == self.links.get(&interface_index) {
                    return Ok(());
                }
                if before.is_some_and(|before| before.mtu_bytes != mtu_bytes) {
                    changes.push(Change::Mtu { interface_index, mtu_bytes });
                }
                self.is_all_stale |= is_used;
            }
            Event::LinkGone(interface_index) => self.lose_link(interface_index, changes),
            Event::Routes => self.is_all_stale = true,
            Event::Neighbour(key, entry) => {
                if let Some(known) = self.neighbours.get_mut(&key) {
                    *known = entry;
                    self.mark_stale(key);
                }
            }
            Event::NeighbourGone(key) => {
                // Looked up anew, and asked for anew if it is still the next hop.
                if self.neighbours.remove(&key).is_some() {
                    self.mark_stale(key);
                }
            }
            Event::Lost => self.start_over(changes)?,
        }
        Ok(())
    }

    /// The kernel had more to tell than the socket holds: everything may be different.
    fn start_over(&mut self, changes: &mut Vec<Change>) -> io::Result<()> {
        let links = self.kernel.links()?;
        let gone: Vec<u32> =
            self.links.keys().filter(|index| !links.contains_key(index)).copied().collect();
        for interface_index in gone {
            self.lose_link(interface_index, changes);
        }
        for (&interface_index, link) in &links {
            let before = self.links.get(&interface_index);
            if before.is_some_and(|before| before.mtu_bytes != link.mtu_bytes) {
                changes.push(Change::Mtu { interface_index, mtu_bytes: link.mtu_bytes });
            }
        }
        self.links = links;
        self.neighbours.clear();
        self.is_all_stale = true;
        Ok(())
    }

    fn lose_link(&mut self, interface_index: u32, changes: &mut Vec<Change>) {
        if let Some(link) = self.links.remove(&interface_index) {
            changes.push(Change::InterfaceGone { interface_index, interface: link.name });
        }
        self.neighbours.retain(|(index, _), _| *index != interface_index);
        self.is_all_stale = true;
    }

    fn mark_stale(&mut self, key: NeighbourKey) {
        let users = self.targets.iter().filter(|(_, target)| target.route == Some(key));
        self.stale_targets.extend(users.map(|(remote, _)| *remote));
    }

    fn resolve(&mut self, remote: IpAddr) -> io::Result<Way> {
        let route = self.kernel.route(remote)?;
        let key = match &route {
            Route::Via { interface_index, next_hop, .. } => Some((*interface_index, *next_hop)),
            Route::None | Route::Local => None,
        };
        if let Some(target) = self.targets.get_mut(&remote) {
            target.route = key;
        }
        let (interface_index, address, route_mtu) = match route {
            Route::None => return Ok(Way::Unresolved(Obstacle::NoRoute)),
            Route::Local => return Ok(Way::Unresolved(Obstacle::Local)),
            Route::Via { interface_index, next_hop, mtu_bytes } => {
                (interface_index, next_hop, mtu_bytes)
            }
        };
        let Some(link) = self.links.get(&interface_index).cloned() else {
            // A link that came up this very moment: its event is on the way, and makes everything
            // stale.
            self.is_all_stale = true;
            return Ok(Way::Unresolved(Obstacle::NoRoute));
        };
        if !link.is_up {
            return Ok(Way::Unresolved(Obstacle::LinkDown { interface: link.name }));
        }
        let entry = self.neighbour((interface_index, address))?;
        Ok(way(interface_index, &link, address, entry, route_mtu))
    }

    /// What the kernel knows about a next hop; from the first call on it keeps it resolved.
    fn neighbour(&mut self, key: NeighbourKey) -> io::Result<NeighbourEntry> {
        if let Some(entry) = self.neighbours.get(&key) {
            return Ok(*entry);
        }
        let entry = self.kernel.manage_neighbour(key)?;
        self.neighbours.insert(key, entry);
        Ok(entry)
    }

    /// Makes a kernel that does not keep neighbours resolved by itself do so once more, and takes
    /// in what events missed.
    fn remind_neighbours(&mut self) -> io::Result<()> {
        for (key, entry) in &mut self.neighbours {
            *entry = self.kernel.remind_neighbour(*key)?;
        }
        Ok(())
    }

    /// Stops managing next hops that no target uses.
    fn release_neighbours(&mut self) {
        let used: BTreeSet<NeighbourKey> =
            self.targets.values().filter_map(|target| target.route).collect();
        let kernel = &mut self.kernel;
        self.neighbours.retain(|key, entry| {
            let is_used = used.contains(key);
            if !is_used {
                kernel.release_neighbour(*key, *entry);
            }
            is_used
        });
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
