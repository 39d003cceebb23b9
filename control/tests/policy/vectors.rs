//! The verdicts of another implementation, policy-assistant: `../shared/vectors/README.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use control::{
    cluster::{NamedPort, Pod, Protocol},
    names::PodName,
    policy::{Compiler, Policy, PolicyName, Scope},
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Deserialize;

use crate::{in_force::InForce, naive::Direction, world::World};

const FILE: &str = "../../shared/vectors/netpol-v4-even.json.xz";

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    description: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    namespaces: BTreeMap<String, Option<BTreeMap<String, String>>>,
    pods: Vec<CasePod>,
    policies: Vec<NetworkPolicy>,
    expected: Vec<Expected>,
}

#[derive(Deserialize)]
struct CasePod {
    namespace: String,
    name: String,
    labels: Option<BTreeMap<String, String>>,
    ip: Ipv4Addr,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    port: u16,
    port_name: String,
    protocol: String,
}

#[derive(Deserialize)]
struct Expected {
    from: String,
    to: String,
    protocol: String,
    port: u16,
    egress: String,
    ingress: String,
    combined: String,
}

impl Step {
    fn world(&self) -> World {
        let mut world = World::default();
        for (name, labels) in &self.namespaces {
            world.namespaces.insert(name.clone(), labels.clone().unwrap_or_default());
        }
        let mut taken = BTreeSet::new();
        for pod in &self.pods {
            let mut address = pod.ip;
            // One step has two pods with one address; its policies do not ask for addresses.
            while !taken.insert(address) {
                address = Ipv4Addr::from_bits(address.to_bits() + 1);
            }
            let pod = pod.pod(address);
            world.pods.insert(pod.name.clone(), pod);
        }
        for policy in &self.policies {
            let name = Policy::parse(policy).name().clone();
            world.policies.insert(name, policy.clone());
        }
        world
    }
}

impl CasePod {
    fn pod(&self, address: Ipv4Addr) -> Pod {
        let port = |found: &Container| NamedPort {
            name: found.port_name.clone(),
            protocol: protocol(&found.protocol),
            number: found.port,
        };
        Pod {
            name: PodName::new(&self.namespace, &self.name),
            node: None,
            addresses: vec![IpAddr::V4(address)],
            host_network: false,
            labels: self.labels.clone().unwrap_or_default(),
            named_ports: self.containers.iter().map(port).collect(),
            port_type: None,
            contested: Vec::new(),
            shared_dir: None,
        }
    }
}

impl Expected {
    /// Whether there is a verdict: there is none for a pod that talks to itself.
    fn check(&self, world: &World, in_force: &InForce, context: &str) -> bool {
        if self.combined == "undefined" {
            assert_eq!(self.from, self.to, "{context}");
            return false;
        }
        let pod = |name: &str| {
            let (namespace, name) = name.split_once('/').unwrap();
            &world.pods[&PodName::new(namespace, name)]
        };
        let (from, to) = (pod(&self.from), pod(&self.to));
        let port = (protocol(&self.protocol).number(), self.port);
        let egress = in_force.allows(Direction::Egress, &from.name, to.addresses[0], port);
        let ingress = in_force.allows(Direction::Ingress, &to.name, from.addresses[0], port);
        let words = [egress, ingress, egress && ingress]
            .map(|is_allowed| if is_allowed { "allowed" } else { "blocked" });
        let expected = [&*self.egress, &*self.ingress, &*self.combined];
        assert_eq!(words, expected, "{context}: {} to {} {port:?}", self.from, self.to);
        true
    }
}

fn protocol(word: &str) -> Protocol {
    Protocol::from_word(Some(word)).unwrap()
}

/// The cases, or why there are none.
fn cases() -> Result<Vec<Case>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if !path.exists() {
        return Err(format!("{} is not there", path.display()));
    }
    let unpacked = Command::new("xz").arg("-dc").arg(&path).output();
    let unpacked = unpacked.map_err(|error| format!("xz cannot be run ({error})"))?;
    assert!(unpacked.status.success(), "xz: {}", String::from_utf8_lossy(&unpacked.stderr));
    Ok(serde_json::from_slice::<File>(&unpacked.stdout).unwrap().cases)
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn another_implementation_comes_to_the_same_verdicts() {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    assert_eq!(cases.len(), 115);
    // One cluster lives through all cases, besides a new one for each step.
    let mut compiler = Compiler::new(Scope::Cluster);
    let (mut live, mut known) = (InForce::default(), World::default());
    let mut count = 0;
    for case in &cases {
        for (index, step) in case.steps.iter().enumerate() {
            let world = step.world();
            for policy in world.policies.values() {
                assert_eq!(Policy::parse(policy).problems(), []);
            }
            live.take(compiler.apply(world.changes_since(&known)));
            let fresh = world.compile(Scope::Cluster);
            assert_eq!(live, fresh, "{}", case.description);
            let context = format!("{}, step {index}", case.description);
            for expected in &step.expected {
                count += usize::from(expected.check(&world, &live, &context));
            }
            known = world;
        }
    }
    assert_eq!(count, 44_940 + 10_680, "verdicts");
}

#[test]
fn a_policy_name_is_a_namespace_and_a_name() {
    let name = PolicyName { namespace: "shop".into(), name: "web".into() };
    assert_eq!(name.to_string(), "shop/web");
}
