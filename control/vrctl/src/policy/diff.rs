//! `vrctl policy diff`: the live policies beside proposed ones.

use std::{collections::BTreeSet, net::IpAddr};

use control::{
    cluster::Family,
    names::{NodeName, PodName},
};
use control_api::engine::ListFlowsRequest;

use super::{
    candidates::{Candidate, NewConnections, Party, new_connections, outsiders, present},
    options::DiffOptions,
    report::{Change, Report},
};
use crate::{
    exit::Failure,
    explain::{Answer, EndName, Live, LocalPod, Offline, Question},
    peer::{ENGINE, Peers},
    print::Printer,
};

/// Present connections that are judged at most; more than these would take longer than anybody
/// waits.
const FLOWS_MAX: u64 = 1_000_000;

/// What ends the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiffFailure {
    /// Not a failure: the exit code tells that there is something to look at.
    #[error("{count} verdicts would change; nothing was applied")]
    WouldChange { count: usize },
}

/// What is in force, or was.
enum Before<'a> {
    Engine(Box<Live<'a>>),
    Manifests(Box<Offline>),
}

/// Compares, and prints what would change.
///
/// # Errors
///
/// Fails if the manifests are broken or the engine cannot be asked; and if something would change.
pub(super) async fn run(
    options: &DiffOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut notes = Vec::new();
    let (mut before, flows) = if let Some(folder) = &options.from_manifests {
        let before = Offline::open(folder, options.node.as_ref(), None)?;
        (Before::Manifests(Box::new(before)), Vec::new())
    } else {
        let live = Live::connect(peers).await?;
        (Before::Engine(Box::new(live)), flows(peers, &mut notes).await?)
    };
    let node = options.node.clone().or_else(|| before.node());
    let mut after =
        Offline::open(&options.manifests, node.as_ref(), before.local_pods().as_deref())?;
    if after.pods().all(|pod| pod.labels.is_empty()) {
        notes.push("the proposed manifests have no pod with a label".to_owned());
    }
    let parties = parties(&before, &after, options);
    let mut ports = after.ports();
    if let Before::Manifests(before) = &before {
        ports.extend(before.ports());
    }
    let used = flows.iter().filter_map(|flow| {
        let question = &flow.question;
        Some((question.protocol.number(Family::V4), question.port?))
    });
    ports.extend(used);
    let NewConnections { candidates, left_out } = new_connections(&parties, &ports);
    if left_out > 0 {
        notes.push(format!(
            "{left_out} more new connections between these pods and ports were not tried; \
             `vrctl explain --probes` judges any of them"
        ));
    }
    let (flow_count, new_count) = (flows.len(), candidates.len());
    let all: Vec<Candidate> = flows.into_iter().chain(candidates).collect();
    let (changes, unanswered) = compare(&mut before, &mut after, &all).await?;
    if unanswered > 0 {
        notes.push(format!(
            "{unanswered} connections were not compared: one of the two sides has no answer for \
             them; `vrctl explain` says why"
        ));
    }
    let report = Report::new(changes, flow_count, new_count, notes);
    report.print(printer)?;
    match report.changes_count() {
        0 => Ok(()),
        count => Err(DiffFailure::WouldChange { count }.into()),
    }
}

/// The engine's connections.
async fn flows(peers: &Peers, notes: &mut Vec<String>) -> Result<Vec<Candidate>, Failure> {
    let (mut engine, _) = peers.engine().await?;
    let request = ListFlowsRequest { limit: FLOWS_MAX, ..ListFlowsRequest::default() };
    let listed = peers.rows(ENGINE, engine.list_flows(request)).await?;
    if listed.len() as u64 >= FLOWS_MAX {
        notes.push(format!("only the first {FLOWS_MAX} connections of the engine are judged"));
    }
    let in_default_vrf = listed.iter().filter(|flow| flow.vrf == 0);
    let flows: Vec<_> = in_default_vrf.filter_map(present).collect();
    let others = listed.len() - flows.len();
    if others > 0 {
        notes.push(format!(
            "{others} connections are not judged: they are of another VRF, or neither TCP, UDP, \
             SCTP nor ICMP"
        ));
    }
    Ok(flows)
}

/// Who may be an end of a new connection.
fn parties(before: &Before<'_>, after: &Offline, options: &DiffOptions) -> Vec<Party> {
    let mut parties: Vec<Party> = match before {
        // By address: both sides know who has it.
        Before::Engine(live) => {
            let here = live.ports().iter();
            let here =
                here.map(|(port, addresses)| (PodName::of_port(port), addresses.clone(), true));
            let own: BTreeSet<IpAddr> = live.ports().values().flatten().copied().collect();
            let elsewhere = after.pods().filter(|pod| !pod.host_network);
            let elsewhere =
                elsewhere.map(|pod| (Some(pod.name.clone()), pod.addresses.clone(), false));
            let elsewhere = elsewhere.filter(|(_, all, _)| !all.iter().any(|it| own.contains(it)));
            here.chain(elsewhere)
                .flat_map(|(pod, addresses, is_judged)| {
                    addresses.into_iter().map(move |address| Party {
                        name: EndName::Address(address),
                        addresses: vec![address],
                        pod: pod.clone(),
                        is_judged,
                    })
                })
                .collect()
        }
        // By name: a pod may have another address then.
        Before::Manifests(before) => {
            let known: BTreeSet<&PodName> = after.pods().map(|pod| &pod.name).collect();
            let both = before.pods().filter(|pod| known.contains(&pod.name));
            both.map(|pod| Party {
                name: EndName::Pod(pod.name.clone()),
                addresses: pod.addresses.clone(),
                pod: None,
                is_judged: options.node.is_none() || pod.node == options.node,
            })
            .collect()
        }
    };
    parties.extend(outsiders());
    parties
}

/// Judges all candidates by both, and keeps what differs. The number is of those that one of both
/// could not judge.
async fn compare(
    before: &mut Before<'_>,
    after: &mut Offline,
    candidates: &[Candidate],
) -> Result<(Vec<Change>, usize), Failure> {
    let questions: Vec<&Question> = candidates.iter().map(|it| &it.question).collect();
    let known = before.answers(&questions).await?;
    let (mut changes, mut unanswered) = (Vec::new(), 0);
    for (candidate, known) in candidates.iter().zip(known) {
        if let (Some(known), Ok(proposed)) = (known, after.answer(&candidate.question)) {
            changes.extend(Change::between(candidate.flow, &known, &proposed));
        } else {
            unanswered += 1;
        }
    }
    Ok((changes, unanswered))
}

impl Before<'_> {
    fn node(&self) -> Option<NodeName> {
        match self {
            Self::Engine(live) => live.node().map(NodeName::new),
            Self::Manifests(_) => None,
        }
    }

    /// Pods that are there whatever the manifests say.
    fn local_pods(&self) -> Option<Vec<LocalPod>> {
        match self {
            Self::Engine(live) => Some(live.local_pods()),
            Self::Manifests(_) => None,
        }
    }

    /// Answers in the order of the questions; `None` where there is none.
    async fn answers(&mut self, questions: &[&Question]) -> Result<Vec<Option<Answer>>, Failure> {
        Ok(match self {
            Self::Engine(live) => {
                live.answers(questions).await?.into_iter().map(Result::ok).collect()
            }
            Self::Manifests(offline) => {
                questions.iter().map(|question| offline.answer(question).ok()).collect()
            }
        })
    }
}
