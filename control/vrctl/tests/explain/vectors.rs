//! The verdicts of another implementation, policy-assistant (`../shared/vectors/README.md`), asked
//! of the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    process::Command,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::scene::{Scene, namespace, probe};

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
