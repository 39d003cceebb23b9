//! Policy: which new connections the pods behind a port may have.
//!
//! A port is isolated in a direction if it has a [`PolicySet`] for it. A set is a list of rules,
//! each of which lets some peers in on some ports (or out to them); what no rule lets pass is
//! denied. Judging asks one table: the peer's address leads to a *class*, and each class has a
//! table of protocols and ports. So it takes as long for one rule as for a thousand.
//!
//! ```text
//! peer's address ─► longest prefix ─► class ─► protocol and port ─► rule, or none: denied
//! ```
//!
//! Only the first packet of a connection is judged, and one of a connection that depends on
//! something that changed; replies follow their connection. Messages without ports, such as ICMP's,
//! pass where a rule lets every protocol and port pass, and nowhere else: the API of Kubernetes
//! names no other protocol than TCP, UDP and SCTP.

mod classes;
mod object;
mod ports;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use self::ports::PortTable;
pub use self::{
    classes::{AddressSets, PolicyCompiler},
    object::{AddressSetObject, IpBlock, PolicyRule, PolicySetObject, PortRange},
};
use crate::fib::Fib;

/// A rule of a policy set: its position there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleIndex(pub u32);

/// What lets connections of some pods pass in one direction, compiled. Immutable; a clone shares
/// all tables.
#[derive(Clone, Debug)]
pub struct PolicySet {
    object: Arc<PolicySetObject>,
    /// Leads from a peer's address to its class.
    peers: Fib,
    /// By class. The first is the class of all whom no rule names.
    classes: Arc<Vec<Arc<PortTable>>>,
}

impl PolicySet {
    /// The rule that lets a connection with `peer` pass; `None` if it is denied.
    ///
    /// `port` is the destination port; `None` for what has none.
    #[must_use]
    pub fn judge(&self, peer: IpAddr, protocol: u8, port: Option<u16>) -> Option<RuleIndex> {
        let class = self.peers.lookup(peer).map_or(0, |found| found.group.0);
        self.classes.get(class as usize)?.rule(protocol, port)
    }

    /// The rule itself.
    #[must_use]
    pub fn rule(&self, index: RuleIndex) -> Option<&PolicyRule> {
        self.object.rules.get(index.0 as usize)
    }

    /// What it was compiled from.
    #[must_use]
    pub fn object(&self) -> &Arc<PolicySetObject> {
        &self.object
    }
}
