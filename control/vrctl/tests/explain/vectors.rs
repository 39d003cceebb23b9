//! The verdicts of another implementation, policy-assistant (`../shared/vectors/README.md`), asked
//! of the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    process::Command,
    thread,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    packets::{First, send},
    scene::{Scene, namespace, probe},
};

const FILE: &str = "../../../shared/vectors/netpol-v4-even.json.xz";

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) description: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    namespaces: BTreeMap<String, Value>,
    pub(crate) pods: Vec<CasePod>,
    policies: Vec<Value>,
    pub(crate) expected: Vec<Expected>,
}

#[derive(Deserialize)]
pub(crate) struct CasePod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    labels: Value,
    ip: Ipv4Addr,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    port: u16,
    port_name: String,
    protocol: String,
}

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    egress: String,
    ingress: String,
    pub(crate) combined: String,
}

impl Step {
    /// The cluster as manifests. `place` says what a pod's spec and status have besides its
    /// containers, by its position.
    pub(crate) fn objects(&self, place: impl Fn(usize, &CasePod) -> (Value, Value)) -> Vec<Value> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| namespace(name, labels));
        let pods = self.pods.iter().enumerate().map(|(index, pod)| {
            let (mut spec, status) = place(index, pod);
            spec["containers"] = pod.containers();
            json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "status": status,
                "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels}})
        });
        let policies = self.policies.iter().map(|policy| {
            let mut policy = policy.clone();
            policy["apiVersion"] = "networking.k8s.io/v1".into();
            policy["kind"] = "NetworkPolicy".into();
            policy
        });
        namespaces.chain(pods).chain(policies).collect()
    }

    fn probes(&self) -> Vec<Value> {
        self.expected.iter().map(|it| probe(&it.from, &it.to, &it.protocol, it.port)).collect()
    }
}

impl CasePod {
    fn containers(&self) -> Value {
        let container = |it: &Container| {
            json!({"name": it.name, "ports": [
                {"name": it.port_name, "containerPort": it.port, "protocol": it.protocol}]})
        };
        self.containers.iter().map(container).collect()
    }
}

impl Expected {
    /// Whether there is a verdict: there is none for a pod that talks to itself.
    pub(crate) fn is_defined(&self) -> bool {
        self.combined != "undefined"
    }

    fn words(&self) -> [&str; 3] {
        if !self.is_defined() {
            assert_eq!(self.from, self.to);
            return ["allow"; 3];
        }
        [&self.combined, &self.ingress, &self.egress].map(|word| match &**word {
            "allowed" => "allow",
            "blocked" => "deny",
            other => panic!("{other}"),
        })
    }
}

/// The cases, or why there are none.
pub(crate) fn cases() -> Result<Vec<Case>, String> {
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
fn explain_comes_to_the_verdicts_of_another_implementation() {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    assert_eq!(cases.len(), 115);
    let (mut count, mut undefined) = (0, 0);
    let mut shared_addresses = 0;
    for case in &cases {
        for (index, step) in case.steps.iter().enumerate() {
            // As they are: in one step two pods have the same address. They are told apart by name.
            let addresses: BTreeSet<_> = step.pods.iter().map(|pod| pod.ip).collect();
            shared_addresses += step.pods.len() - addresses.len();
            let place = |_, pod: &CasePod| (json!({}), json!({"podIPs": [{"ip": pod.ip}]}));
            let scene = Scene::new(&step.objects(place));
            let answers = scene.all(&step.probes());
            for (expected, answer) in step.expected.iter().zip(&answers) {
                let found = ["verdict", "ingress", "egress"].map(|name| &answer[name]);
                assert_eq!(
                    found,
                    expected.words(),
                    "{}, step {index}: {} to {} {} {}: {answer}",
                    case.description,
                    expected.from,
                    expected.to,
                    expected.protocol,
                    expected.port
                );
                undefined += usize::from(!expected.is_defined());
            }
            count += answers.len();
        }
    }
    assert_eq!((count, undefined, shared_addresses), (62_565, 6_945, 1));
}

impl Step {
    /// The pods on a node for each block of 256 addresses that they are in, so that packets go
    /// within nodes and between them. Where two have one address, the later one gets the next.
    fn on_nodes(&self) -> (Scene, BTreeMap<String, Ipv4Addr>) {
        let mut taken = BTreeSet::new();
        let mut addresses = Vec::new();
        for pod in &self.pods {
            let mut address = pod.ip;
            while !taken.insert(address) {
                address = Ipv4Addr::from_bits(address.to_bits() + 1);
            }
            addresses.push(address);
        }
        let third = |address: &Ipv4Addr| address.octets()[2];
        let node = |number: u8| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
                "spec": {"podCIDRs": [format!("192.168.{number}.0/24")]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": format!("192.0.2.{}", number + 1)}]}})
        };
        let blocks: BTreeSet<u8> = addresses.iter().map(third).collect();
        let place = |index: usize, _: &CasePod| {
            let address = addresses[index];
            let spec = json!({"nodeName": format!("node-{}", third(&address))});
            (spec, json!({"podIPs": [{"ip": address}]}))
        };
        let mut objects = self.objects(place);
        objects.extend(blocks.into_iter().map(node));
        let names = self.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        (Scene::new(&objects), names.zip(addresses.iter().copied()).collect())
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn packets_meet_the_verdicts_of_another_implementation() {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(why) => return eprintln!("SKIPPED: {why}"),
    };
    // Two at a time: engines without optimization take their time.
    let half = cases.len() / 2;
    let halves = [&cases[..half], &cases[half..]];
    let count: usize = thread::scope(|scope| {
        let threads =
            halves.map(|cases| scope.spawn(|| cases.iter().map(Case::send).sum::<usize>()));
        threads.map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    assert_eq!(count, 44_940 + 10_680, "packets");
}

impl Case {
    /// Sends a packet for each verdict, and returns how many there were.
    fn send(&self) -> usize {
        let mut count = 0;
        for (index, step) in self.steps.iter().enumerate() {
            let (scene, addresses) = step.on_nodes();
            let expected: Vec<_> = step.expected.iter().filter(|it| it.is_defined()).collect();
            let first = |expected: &&Expected| First {
                from: addresses[&expected.from].into(),
                to: addresses[&expected.to].into(),
                protocol: expected.protocol.clone(),
                port: Some(expected.port),
            };
            let packets: Vec<_> = expected.iter().map(first).collect();
            let fates = send(&scene.folder.path().join("manifests"), &packets);
            for (expected, fate) in expected.iter().zip(&fates) {
                // The first that denies drops it.
                let [_, ingress, egress] = expected.words();
                let denier = match (egress, ingress) {
                    ("deny", _) => "egress",
                    (_, "deny") => "ingress",
                    _ => "-",
                };
                let to = (denier == "-").then_some(&expected.to);
                assert!(
                    fate.denier() == denier && fate.delivered_to.as_ref() == to,
                    "{}, step {index}: {} to {} {} {}: {fate:?}",
                    self.description,
                    expected.from,
                    expected.to,
                    expected.protocol,
                    expected.port
                );
            }
            count += expected.len();
        }
        count
    }
}
