//! Which addresses an attachment gets. Pure choice: the store makes it stick, in the same
//! transaction as the attachment's record.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    cluster::{Cluster, Family},
    names::{NodeName, PodName},
    range::PodRange,
};

/// What the addresses of a node are for, besides what the store knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddressPlan {
    /// The node's ranges: a pod gets one address of each.
    pub ranges: Vec<PodRange>,
    /// Addresses of the ranges that a manifest promises to its pod.
    pub reserved: BTreeMap<IpAddr, PodName>,
    /// Addresses that another plugin's pods have on this node.
    pub foreign: Vec<IpAddr>,
}

/// Why an attachment gets no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum AllocateError {
    #[error("this node has no pod range: set spec.podCIDRs of its Node object")]
    NoRange,

    #[error(
        "all {capacity} addresses of {range} are in use or reserved: delete pods, or give the node \
         a larger range"
    )]
    Exhausted { range: PodRange, capacity: u128 },

    #[error("{address} is not an address for pods of this node, whose ranges are {ranges}")]
    OutsideRange { address: IpAddr, ranges: String },

    #[error("{address} is in use by {holder}: delete that first, or ask for another address")]
    InUse { address: IpAddr, holder: String },

    #[error("{address} is reserved by the manifest of pod {pod}")]
    Reserved { address: IpAddr, pod: PodName },

    #[error("two addresses of one family are asked for; a pod has at most one of each")]
    SecondOfFamily,
}

impl AddressPlan {
    /// The plan of `node` in `cluster`; empty if there is no such node.
    #[must_use]
    pub fn new(cluster: &Cluster, node: &NodeName) -> Self {
        let ranges: Vec<PodRange> =
            cluster.nodes.get(node).map(|node| node.ranges.clone()).unwrap_or_default();
        let pods = cluster.pods.values().filter(|pod| !pod.host_network);
        let promised = pods.flat_map(|pod| pod.addresses.iter().map(move |ip| (*ip, &pod.name)));
        let reserved = promised
            .filter(|(address, _)| ranges.iter().any(|range| range.contains(*address)))
            .map(|(address, pod)| (address, pod.clone()))
            .collect();
        Self { ranges, reserved, foreign: Vec::new() }
    }

    /// The addresses that the manifest of `pod` promises it.
    #[must_use]
    pub fn promised(&self, pod: &PodName) -> Vec<IpAddr> {
        let of_pod = self.reserved.iter().filter(|(_, holder)| *holder == pod);
        of_pod.map(|(address, _)| *address).collect()
    }

    /// Chooses the addresses of `pod`: those it asks for, else those its manifest promises, else
    /// the next free one of each range.
    ///
    /// `holder` tells who has an address by the store, `last` the address that was given last out
    /// of a range: the search goes on after it, so that a freed address rests as long as it can.
    ///
    /// # Errors
    ///
    /// Fails if an address asked for or promised cannot be given, or a range has none left.
    pub fn choose(
        &self,
        pod: &PodName,
        requested: &[IpAddr],
        holder: impl Fn(IpAddr) -> Option<String>,
        last: impl Fn(PodRange) -> Option<IpAddr>,
    ) -> Result<Vec<IpAddr>, AllocateError> {
        let promised = self.promised(pod);
        let exact = if requested.is_empty() { promised.as_slice() } else { requested };
        if !exact.is_empty() {
            self.check_exact(pod, exact, holder)?;
            return Ok(exact.to_vec());
        }
        if self.ranges.is_empty() {
            return Err(AllocateError::NoRange);
        }
        let is_free = |address: IpAddr| {
            !self.reserved.contains_key(&address)
                && !self.foreign.contains(&address)
                && holder(address).is_none()
        };
        self.ranges.iter().map(|range| next_free(*range, last(*range), is_free)).collect()
    }

    fn check_exact(
        &self,
        pod: &PodName,
        exact: &[IpAddr],
        holder: impl Fn(IpAddr) -> Option<String>,
    ) -> Result<(), AllocateError> {
        for (index, address) in exact.iter().enumerate() {
            let family = Family::of(*address);
            if exact[..index].iter().any(|earlier| Family::of(*earlier) == family) {
                return Err(AllocateError::SecondOfFamily);
            }
            if !self.ranges.iter().any(|range| range.is_assignable(*address)) {
                let ranges: Vec<_> = self.ranges.iter().map(ToString::to_string).collect();
                let ranges = ranges.join(", ");
                return Err(AllocateError::OutsideRange { address: *address, ranges });
            }
            if let Some(owner) = self.reserved.get(address).filter(|owner| *owner != pod) {
                return Err(AllocateError::Reserved { address: *address, pod: owner.clone() });
            }
            let foreign = self.foreign.contains(address);
            let foreign = foreign.then(|| "a pod of another plugin".to_owned());
            if let Some(holder) = holder(*address).or(foreign) {
                return Err(AllocateError::InUse { address: *address, holder });
            }
        }
        Ok(())
    }
}

/// The first free address after `last`, round and round.
fn next_free(
    range: PodRange,
    last: Option<IpAddr>,
    is_free: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, AllocateError> {
    let mut candidate = range.next_after(last);
    // Bounded by the range. In practice by what is in use: only taken addresses are passed over.
    let mut left = range.capacity();
    while left > 0 {
        if is_free(candidate) {
            return Ok(candidate);
        }
        candidate = range.next_after(Some(candidate));
        left -= 1;
    }
    Err(AllocateError::Exhausted { range, capacity: range.capacity() })
}
