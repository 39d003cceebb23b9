//! Pods that control leaves without an address, judged as if that were mended.
//!
//! Two pods may claim one address for a moment: one has ended, and its object does not say so yet.
//! To control the address is nobody's then. But who asks for one of them by name wants to know what
//! its labels would do; so the second gets an address of its own, which no block of a policy names
//! short of one for all addresses. The answer says so.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use control::{
    cluster::{self, Cluster, Conflict, Refusal},
    manifests::{Manifest, Sourced},
    names::{NodeName, PodName},
};
use k8s_openapi::api::core::v1 as core;

use crate::manifests::Manifests;

/// What is wrong with the addresses of pods, by name.
pub(super) type Pardons = BTreeMap<PodName, String>;

/// The cluster with as many of the refused addresses as can be judged, why these are, and why the
/// others are not.
pub(super) fn pardon(manifests: &Manifests) -> (Cluster, Pardons, Pardons) {
    let mut pardons = Pardons::new();
    let mut nodes: BTreeMap<PodName, NodeName> = BTreeMap::new();
    let mut stand_ins = StandIns::default();
    let mut objects: Vec<Sourced> = manifests.folder.objects().cloned().collect();
    let (mut cluster, mut refusals) = (manifests.cluster.clone(), manifests.refusals.clone());
    loop {
        let mut has_mended = false;
        for refusal in &refusals {
            let Some((pod, name)) = find(&mut objects, refusal) else { continue };
            if !mend(pod, refusal, &mut stand_ins) {
                continue;
            }
            has_mended = true;
            // Its node would hold its range against it.
            let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take());
            nodes.extend(node.map(|node| (name.clone(), NodeName::new(node))));
            pardons.insert(name, refusal.conflict.to_string());
        }
        if !has_mended {
            break;
        }
        (cluster, refusals) = Cluster::from_manifests(&objects);
    }
    for (name, node) in nodes {
        if let Some(pod) = cluster.pods.get_mut(&name) {
            Arc::make_mut(pod).node = Some(node);
        }
    }
    let refused = refusals.into_iter().filter_map(|refusal| {
        let (namespace, name) = refusal.object.strip_prefix("Pod ")?.split_once('/')?;
        Some((PodName::new(namespace, name), refusal.conflict.to_string()))
    });
    (cluster, pardons, refused.collect())
}

/// Takes away what a pod is refused for; tells whether anything was.
fn mend(pod: &mut core::Pod, refusal: &Refusal, stand_ins: &mut StandIns) -> bool {
    let Conflict::PodAddress { fault } = &refusal.conflict else { return false };
    match &**fault {
        Conflict::AddressTaken { field: "status.podIPs", address, .. } => {
            stand_ins.replace(pod, *address)
        }
        Conflict::OutsideRange { .. } => pod.spec.as_ref().is_some_and(|it| it.node_name.is_some()),
        _ => false,
    }
}

/// The pod that is refused; items of one list have one place.
fn find<'a>(objects: &'a mut [Sourced], refusal: &Refusal) -> Option<(&'a mut core::Pod, PodName)> {
    objects.iter_mut().filter(|object| object.place == refusal.place).find_map(|object| {
        let Manifest::Pod(pod) = &mut object.manifest else { return None };
        let name = pod_name(pod);
        (refusal.object == format!("Pod {name}")).then_some((&mut **pod, name))
    })
}

fn pod_name(pod: &core::Pod) -> PodName {
    PodName::new(cluster::namespace(&pod.metadata), pod.metadata.name.clone().unwrap_or_default())
}

/// Addresses that nobody has: of the block reserved for future use (RFC 1112 section 4), and of the
/// prefix of which all is discarded (RFC 6666).
#[derive(Debug, Default)]
struct StandIns {
    count: u32,
}

impl StandIns {
    /// Puts a new address wherever the pod has a taken one.
    fn replace(&mut self, pod: &mut core::Pod, taken: IpAddr) -> bool {
        self.count += 1;
        let stand_in = match taken {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(0xf000_0000 | self.count)),
            IpAddr::V6(_) => {
                IpAddr::V6(Ipv6Addr::from_bits((0x0100_u128 << 112) | u128::from(self.count)))
            }
        };
        let Some(status) = &mut pod.status else { return false };
        let listed = status.pod_ips.iter_mut().flatten().map(|entry| &mut entry.ip);
        let mut has_replaced = false;
        for text in listed.chain(&mut status.pod_ip) {
            if text.parse() == Ok(taken) {
                *text = stand_in.to_string();
                has_replaced = true;
            }
        }
        has_replaced
    }
}
