//! Which connections are tried: those that there are, and new ones that policies can tell apart.
//!
//! No list of new connections is whole. Pairs of pods, an address outside, the ports that any of
//! the policies names or a present connection uses, one port that none names, and ICMP: that is
//! where a verdict can change. How much of it was tried is said.

use std::{collections::BTreeSet, net::IpAddr};

use control::{cluster::Family, names::PodName};
use control_api::engine::FlowStatus;

use crate::{
    address,
    explain::{EndName, Protocol, Question},
};

/// New connections that are tried at most: a few seconds' work.
pub(super) const CONNECTIONS_MAX: usize = 100_000;

/// Ports that are tried for each pair at most, the policies' first.
const PORTS_MAX: usize = 32;

/// Ports that are tried for certain: TCP 80 and 443, UDP 53.
const USUAL_PORTS: [(u8, u16); 3] = [(6, 80), (6, 443), (17, 53)];

/// Addresses outside of every cluster, reserved for documentation (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];

/// A connection to judge.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) question: Question,
    /// The source port of a present connection.
    pub(super) flow: Option<u16>,
}

/// Somebody who may be an end of new connections.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) name: EndName,
    pub(super) addresses: Vec<IpAddr>,
    /// Whose interface it is, if another party may be one of the same pod.
    pub(super) pod: Option<PodName>,
    /// Whether its own verdicts are asked for.
    pub(super) is_judged: bool,
}

/// New connections, and how many more there would be.
#[derive(Debug, Default)]
pub(super) struct NewConnections {
    pub(super) candidates: Vec<Candidate>,
    pub(super) left_out: usize,
}

/// A present connection; `None` if no policy can tell what it is.
pub(super) fn present(flow: &FlowStatus) -> Option<Candidate> {
    let from = EndName::Address(address::parse_ip(&flow.source)?);
    let to = EndName::Address(address::parse_ip(&flow.destination)?);
    let protocol = Protocol::from_number(u8::try_from(flow.protocol).ok()?)?;
    let destination_port = u16::try_from(flow.destination_port).ok();
    let port = destination_port.filter(|_| protocol != Protocol::Icmp);
    let question = Question::new(from, to, protocol, port, None).ok()?;
    Some(Candidate { question, flow: Some(u16::try_from(flow.source_port).unwrap_or_default()) })
}

/// Those who are outside of the cluster.
pub(super) fn outsiders() -> impl Iterator<Item = Party> {
    OUTSIDE.into_iter().map(|address| Party {
        name: EndName::Address(address),
        addresses: vec![address],
        pod: None,
        is_judged: false,
    })
}

/// New connections between parties of which at least one is judged.
pub(super) fn new_connections(parties: &[Party], ports: &BTreeSet<(u8, u16)>) -> NewConnections {
    let traffic = traffic(ports);
    let mut new = NewConnections::default();
    for from in parties {
        for to in parties.iter().filter(|to| to.is_judged || from.is_judged) {
            for family in [Family::V4, Family::V6] {
                if !from.is_same(to) && from.has(family) && to.has(family) {
                    add_all(&mut new, from, to, family, &traffic);
                }
            }
        }
    }
    new
}

fn add_all(
    new: &mut NewConnections,
    from: &Party,
    to: &Party,
    family: Family,
    traffic: &[(Protocol, Option<u16>)],
) {
    for (protocol, port) in traffic {
        if new.candidates.len() >= CONNECTIONS_MAX {
            new.left_out += 1;
            continue;
        }
        let (from, to) = (from.name.clone(), to.name.clone());
        if let Ok(question) = Question::new(from, to, *protocol, *port, Some(family)) {
            new.candidates.push(Candidate { question, flow: None });
        }
    }
}

/// What is tried for each pair.
fn traffic(ports: &BTreeSet<(u8, u16)>) -> Vec<(Protocol, Option<u16>)> {
    let all = ports.iter().copied().take(PORTS_MAX).chain(USUAL_PORTS);
    let mut all: BTreeSet<(u8, u16)> = all.filter(|(_, port)| *port > 0).collect();
    for protocol in [6, 17, 132] {
        let unnamed = (1..u16::MAX).rev().find(|port| !ports.contains(&(protocol, *port)));
        all.extend(unnamed.map(|port| (protocol, port)));
    }
    let known = |(number, port)| Some((Protocol::from_number(number)?, Some(port)));
    all.into_iter().filter_map(known).chain([(Protocol::Icmp, None)]).collect()
}

impl Party {
    /// Whether what goes between the two stays within a pod.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name || (self.pod.is_some() && self.pod == other.pod)
    }

    fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| Family::of(*address) == family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(text: &str, is_judged: bool) -> Party {
        let addresses = vec![IpAddr::from([10, 0, 0, 1])];
        Party { name: text.parse().unwrap(), addresses, pod: None, is_judged }
    }

    #[test]
    fn each_pair_with_a_judged_end_is_tried_both_ways() {
        let parties = [party("a/x", true), party("a/y", false), party("a/z", false)];
        let new = new_connections(&parties, &BTreeSet::from([(6, 8080)]));
        let ping = |from: &str, to: &str| {
            new.candidates.iter().any(|Candidate { question, .. }| {
                question.protocol == Protocol::Icmp
                    && question.from == from.parse().unwrap()
                    && question.to == to.parse().unwrap()
            })
        };
        assert!(ping("a/x", "a/y") && ping("a/y", "a/x") && ping("a/z", "a/x"));
        assert!(!ping("a/y", "a/z") && !ping("a/x", "a/x"));
        let ports: BTreeSet<_> = new
            .candidates
            .iter()
            .map(|it| (it.question.protocol.word(), it.question.port))
            .collect();
        assert!(ports.contains(&("TCP", Some(8080))) && ports.contains(&("UDP", Some(53))));
        assert!(ports.contains(&("SCTP", Some(65534))), "a port that nobody names: {ports:?}");
        assert_eq!(new.left_out, 0);
    }

    #[test]
    fn a_present_connection_is_asked_about_as_it_was_opened() {
        let flow = FlowStatus {
            protocol: 6,
            source: vec![10, 0, 0, 1],
            source_port: 40_000,
            destination: vec![10, 0, 0, 2],
            destination_port: 80,
            ..FlowStatus::default()
        };
        let candidate = present(&flow).unwrap();
        assert_eq!(candidate.flow, Some(40_000));
        assert_eq!(candidate.question.to, EndName::Address([10, 0, 0, 2].into()));
        assert_eq!(
            (candidate.question.protocol, candidate.question.port),
            (Protocol::Tcp, Some(80))
        );
        // An echo's identifier is no port.
        let ping = FlowStatus { protocol: 1, destination_port: 9, ..flow.clone() };
        assert_eq!(present(&ping).unwrap().question.port, None);
        assert!(present(&FlowStatus { protocol: 47, ..flow }).is_none(), "GRE");
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let parties: Vec<_> = (0..200).map(|n| party(&format!("a/{n}"), true)).collect();
        let new = new_connections(&parties, &BTreeSet::new());
        assert_eq!(new.candidates.len(), CONNECTIONS_MAX);
        assert_eq!(new.candidates.len() + new.left_out, 200 * 199 * 7);
    }
}
