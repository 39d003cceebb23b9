//! Answers from the engine of this node: what is in force now, for the pods that are here.
//!
//! Each node judges its own pods. Of an end that is on another one nothing is known here, and that
//! is the answer: it may be a pod that is isolated there, or no pod at all. Only of an address that
//! the engine itself hands to the node's own stack, or has no route to, can it be told that it is
//! no pod's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use control::{
    cluster::Family,
    names::{NodeName, PodName},
};
use control_api::{
    EXPLAIN_QUERIES_MAX,
    engine::{
        DirectionVerdict, ExplainQuery, ExplainRequest, Explanation, GetStatusRequest,
        ListPortsRequest, ListRoutesRequest, direction_verdict::Verdict as Code,
        engine_client::EngineClient, port::Role,
    },
    node::ListPodsRequest,
};
use tonic::transport::Channel;

use super::{
    answer::{Answer, Cause, EndView, Reason, RuleView},
    direction::Direction,
    question::{EndName, Question},
    world::LocalPod,
};
use crate::{
    address,
    exit::{Failure, chain},
    peer::{CONTROL, ENGINE, Peers},
};

/// The engine, and what names and addresses mean.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    peers: &'a Peers,
    engine: EngineClient<Channel>,
    /// This node; `None` before control has programmed the engine.
    node: Option<String>,
    /// Addresses of the guest ports here, by name.
    ports: BTreeMap<String, Vec<IpAddr>>,
    ports_by_address: HashMap<IpAddr, String>,
    /// The pods of the cluster that control knows, or why it could not be asked.
    pods: Result<BTreeMap<PodName, Known>, String>,
    pods_by_address: HashMap<IpAddr, PodName>,
    /// Where addresses lead that are behind no guest port.
    ways: HashMap<IpAddr, Way>,
}

/// A pod as control knows it.
#[derive(Clone, Debug)]
struct Known {
    node: Option<String>,
    addresses: Vec<IpAddr>,
    is_on_host_network: bool,
}

/// Where an address leads that is behind no guest port.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Way {
    /// To another node.
    Tunnel(String),
    /// To the node's own stack, or nowhere.
    Outside,
    /// To a guest port that forwards for it.
    Guest(String),
}

/// Why a live question has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum LiveError {
    #[error("no port of this engine is pod {pod}, and control knows no such pod")]
    NoSuchPod { pod: PodName },
    #[error(
        "no port of this engine is pod {pod}, and control cannot be asked where it is: {error}"
    )]
    ControlAway { pod: PodName, error: String },
    #[error("pod {pod} has no address: it is not attached, and status.podIPs says none")]
    NoAddress { pod: PodName },
    #[error("{from} and {to} have no family in common, so nothing passes between them")]
    NoCommonFamily { from: EndName, to: EndName },
}

impl<'a> Live<'a> {
    /// Asks the engine for its ports, and control for the cluster's pods.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be asked. Control may be away.
    pub(crate) async fn connect(peers: &'a Peers) -> Result<Self, Failure> {
        let (mut engine, _) = peers.engine().await?;
        let status = peers.answer(ENGINE, engine.get_status(GetStatusRequest {})).await?;
        let node = address::optional(status.into_inner().node_name);
        let listed = peers.rows(ENGINE, engine.list_ports(ListPortsRequest {})).await?;
        let guests = listed.into_iter().filter(|port| port.role() == Role::Guest);
        let ports: BTreeMap<String, Vec<IpAddr>> =
            guests.map(|port| (port.name, parse(&port.addresses))).collect();
        let pods = pods(peers).await;
        let mut pods_by_address = HashMap::new();
        for (name, pod) in pods.iter().flatten().filter(|(_, pod)| !pod.is_on_host_network) {
            pods_by_address.extend(pod.addresses.iter().map(|address| (*address, name.clone())));
        }
        let all = ports.iter();
        let all = all.flat_map(|(name, list)| list.iter().map(|it| (*it, name.clone())));
        let ports_by_address = all.collect();
        let ways = HashMap::new();
        Ok(Self { peers, engine, node, ports, ports_by_address, pods, pods_by_address, ways })
    }

    /// Addresses of the guest ports, by name.
    pub(crate) fn ports(&self) -> &BTreeMap<String, Vec<IpAddr>> {
        &self.ports
    }

    /// The pods behind the guest ports, with the addresses of all their interfaces.
    pub(crate) fn local_pods(&self) -> Vec<LocalPod> {
        let mut pods: BTreeMap<PodName, Vec<IpAddr>> = BTreeMap::new();
        for (port, addresses) in &self.ports {
            if let Some(name) = PodName::of_port(port) {
                pods.entry(name).or_default().extend(addresses);
            }
        }
        let node = self.node.as_ref().map(NodeName::new);
        let local = |(name, addresses)| LocalPod { name, node: node.clone(), addresses };
        pods.into_iter().map(local).collect()
    }

    /// This node's name, if the engine knows it.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Answers questions, in their order.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot be asked. What is wrong with one question is in its place.
    pub(crate) async fn answers(
        &mut self,
        questions: &[&Question],
    ) -> Result<Vec<Result<Answer, LiveError>>, Failure> {
        let mut answers = Vec::with_capacity(questions.len());
        for piece in questions.chunks(EXPLAIN_QUERIES_MAX) {
            let resolved: Vec<_> = piece.iter().map(|question| self.resolve(question)).collect();
            let asked = piece.iter().zip(&resolved).filter_map(|(question, ends)| {
                ends.as_ref().ok().map(|[from, to]| query(question, *from, *to))
            });
            let request = ExplainRequest { queries: asked.collect() };
            let response = self.peers.answer(ENGINE, self.engine.explain(request)).await?;
            let mut explanations = response.into_inner().explanations.into_iter();
            for (question, ends) in piece.iter().zip(resolved) {
                answers.push(match ends {
                    Err(error) => Err(error),
                    Ok(ends) => {
                        let explanation = explanations.next().unwrap_or_default();
                        Ok(self.answer(question, ends, explanation).await?)
                    }
                });
            }
        }
        Ok(answers)
    }

    async fn answer(
        &mut self,
        question: &Question,
        [from, to]: [IpAddr; 2],
        explanation: Explanation,
    ) -> Result<Answer, Failure> {
        let Explanation { egress, ingress } = explanation;
        let egress = egress.unwrap_or_default();
        let egress = self.reason(Direction::Egress, (&question.from, from), egress).await?;
        let ingress = ingress.unwrap_or_default();
        let ingress = self.reason(Direction::Ingress, (&question.to, to), ingress).await?;
        let ends = [self.view(&question.from, from), self.view(&question.to, to)];
        Ok(Answer::new(question, ends, egress, ingress, Vec::new()))
    }

    async fn reason(
        &mut self,
        direction: Direction,
        (name, end): (&EndName, IpAddr),
        found: DirectionVerdict,
    ) -> Result<Reason, Failure> {
        let word = direction.word();
        let code = found.verdict();
        let DirectionVerdict { port, policies, rule, .. } = found;
        let rule = rule.map(|rule| RuleView::new(&rule.policy, &rule.path));
        let by = policies.join(", ");
        let (cause, text) = match code {
            Code::Allowed => {
                let rule = rule.as_ref().map(ToString::to_string).unwrap_or_default();
                (Cause::Rule, format!("allowed by {rule}"))
            }
            Code::Denied => {
                (Cause::NoRule, format!("isolated for {word} by {by}, and no rule allows this"))
            }
            Code::NotIsolated => {
                (Cause::NotIsolated, format!("no policy isolates {port} for {word}"))
            }
            Code::Itself => {
                (Cause::Itself, format!("{port} talks to itself, which is always allowed"))
            }
            Code::FromNode => (Cause::OwnNode, format!("it comes from {port}'s own node")),
            Code::NotHere | Code::Unspecified => return self.elsewhere(name, end).await,
        };
        Ok(Reason { cause, node: self.node.clone(), policies, rule, text })
    }

    /// About an end that is behind no guest port here.
    async fn elsewhere(&mut self, name: &EndName, end: IpAddr) -> Result<Reason, Failure> {
        if let EndName::Pod(name) = name
            && let Some(pod) = self.known(name).filter(|pod| pod.is_on_host_network)
        {
            let text = format!("{name} uses its node's network, where no policy isolates it");
            let (cause, node) = (Cause::HostNetwork, pod.node.clone());
            return Ok(Reason { cause, node, policies: Vec::new(), rule: None, text });
        }
        let pod = self.pods_by_address.get(&end).cloned();
        let pod = pod.and_then(|name| Some((self.known(&name)?.node.clone(), name)));
        let (cause, node, text) = match (pod, self.way(end).await?) {
            (Some((node, name)), _) => {
                let at = node.clone().unwrap_or_else(|| "its own node".to_owned());
                (Cause::NotHere, node, format!("{name} is not here: ask the engine of {at}"))
            }
            (None, Way::Tunnel(tunnel)) => {
                let text = format!("{end} is behind tunnel {tunnel}: ask the engine of that node");
                (Cause::NotHere, None, text)
            }
            (None, Way::Guest(port)) => {
                let text = format!("{end} is behind port {port}, which has no such address");
                (Cause::NotHere, None, text)
            }
            (None, Way::Outside) => {
                (Cause::NotAPod, None, format!("{end} is no pod's: no policy is about it"))
            }
        };
        Ok(Reason { cause, node, policies: Vec::new(), rule: None, text })
    }

    /// Where the engine would send a packet for this address.
    async fn way(&mut self, end: IpAddr) -> Result<Way, Failure> {
        use control_api::engine::next_hop::Via;
        if let Some(way) = self.ways.get(&end) {
            return Ok(way.clone());
        }
        let request = ListRoutesRequest { vrf: None, address: address::to_bytes(end), limit: 1 };
        let routes = self.peers.rows(ENGINE, self.engine.list_routes(request)).await?;
        let via = routes
            .into_iter()
            .filter_map(|status| status.route)
            .flat_map(|route| route.next_hops)
            .find_map(|next_hop| next_hop.via);
        let way = match via {
            Some(Via::Tunnel(tunnel)) => Way::Tunnel(tunnel),
            Some(Via::Port(port)) if self.ports.contains_key(&port) => Way::Guest(port),
            _ => Way::Outside,
        };
        self.ways.insert(end, way.clone());
        Ok(way)
    }

    fn resolve(&self, question: &Question) -> Result<[IpAddr; 2], LiveError> {
        let Question { from, to, family, .. } = question;
        let (all_from, all_to) =
            (self.addresses(from, family.is_some())?, self.addresses(to, family.is_some())?);
        let pick = |family| {
            let of = |all: &[IpAddr]| all.iter().copied().find(|it| Family::of(*it) == family);
            Some([of(&all_from)?, of(&all_to)?])
        };
        let found = question.families().into_iter().find_map(pick);
        found.ok_or_else(|| LiveError::NoCommonFamily { from: from.clone(), to: to.clone() })
    }

    /// The addresses that an end may use. An address stands for the pod that has it; the pod's other
    /// one is meant only if a family is asked for.
    fn addresses(&self, end: &EndName, is_family_given: bool) -> Result<Vec<IpAddr>, LiveError> {
        let pod = match end {
            EndName::Address(address) => {
                let port = self.ports_by_address.get(address).filter(|_| is_family_given);
                let all = port.and_then(|port| self.ports.get(port));
                return Ok(all.cloned().unwrap_or_else(|| vec![*address]));
            }
            EndName::Pod(pod) => pod,
        };
        let here = self.ports.get(&pod.to_string());
        let addresses = here.or_else(|| Some(&self.known(pod)?.addresses));
        match (addresses, &self.pods) {
            (Some(addresses), _) if !addresses.is_empty() => Ok(addresses.clone()),
            (Some(_), _) => Err(LiveError::NoAddress { pod: pod.clone() }),
            (None, Ok(_)) => Err(LiveError::NoSuchPod { pod: pod.clone() }),
            (None, Err(error)) => {
                Err(LiveError::ControlAway { pod: pod.clone(), error: error.clone() })
            }
        }
    }

    fn known(&self, pod: &PodName) -> Option<&Known> {
        self.pods.as_ref().ok()?.get(pod)
    }

    fn view(&self, name: &EndName, address: IpAddr) -> EndView {
        let ip = address.to_string();
        if let Some(port) = self.ports_by_address.get(&address) {
            let pod = PodName::of_port(port).map_or_else(|| port.clone(), |pod| pod.to_string());
            return EndView { pod: Some(pod), ip, node: self.node.clone() };
        }
        let asked = match name {
            EndName::Pod(pod) => Some(pod),
            EndName::Address(address) => self.pods_by_address.get(address),
        };
        let node = asked.and_then(|pod| self.known(pod)?.node.clone());
        EndView { pod: asked.map(ToString::to_string), ip, node }
    }
}

/// The cluster's pods, or why control did not tell.
async fn pods(peers: &Peers) -> Result<BTreeMap<PodName, Known>, String> {
    let ask = async {
        let mut control = peers.control().await?;
        peers.rows(CONTROL, control.list_pods(ListPodsRequest {})).await
    };
    let pods = ask.await.map_err(|failure: Failure| chain(&failure))?;
    let known = pods.into_iter().map(|pod| {
        let known = Known {
            node: address::optional(pod.node),
            addresses: parse(&pod.addresses),
            is_on_host_network: pod.host_network,
        };
        (PodName::new(pod.namespace, pod.name), known)
    });
    Ok(known.collect())
}

fn parse(addresses: &[Vec<u8>]) -> Vec<IpAddr> {
    addresses.iter().filter_map(|bytes| address::parse_ip(bytes)).collect()
}

fn query(question: &Question, from: IpAddr, to: IpAddr) -> ExplainQuery {
    ExplainQuery {
        vrf: 0,
        source: address::to_bytes(from),
        destination: address::to_bytes(to),
        protocol: u32::from(question.protocol.number(Family::of(from))),
        destination_port: question.port.map(u32::from),
    }
}
