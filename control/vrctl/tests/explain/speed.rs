//! 100,000 questions about a cluster of a thousand pods, within their time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scene::{Scene, namespace, node, pod, policy, probe};

const PROBES: usize = 100_000;

/// Of a release build, with reading the manifests and writing the answers.
const ANSWERED_MAX: Duration = Duration::from_secs(10);

/// A build without optimization is some twenty times as slow.
const DEBUG_SHARE: usize = 20;

fn cluster() -> Vec<Value> {
    let nodes = (1..=10).map(node);
    let spaces =
        (0..20).map(|n| namespace(&format!("ns-{n}"), &json!({"team": format!("t{}", n % 4)})));
    let pods = (0..1000_u16).map(|n| {
        let (node, last) = (u8::try_from(n % 10).unwrap() + 1, u8::try_from(n / 10).unwrap() + 10);
        let labels = json!({"app": format!("app-{}", n % 7), "tier": format!("{}", n % 3)});
        pod(&format!("ns-{}/pod-{n}", n % 20), node, last, &labels)
    });
    let policies = (0..20).flat_map(|n| {
        (0..5).map(move |m| {
            let spec = json!({
                "podSelector": {"matchLabels": {"app": format!("app-{m}")}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": format!("t{}", m % 4)}}}],
                             "ports": [{"port": 80}, {"port": 8000, "endPort": 8100}]},
                            {"from": [{"ipBlock": {"cidr": "10.244.3.0/24", "except": ["10.244.3.64/26"]}}]}],
                "egress": [{"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "1"}}}]},
                           {"ports": [{"port": 53, "protocol": "UDP"}]}]});
            policy(&format!("ns-{n}/policy-{m}"), &spec)
        })
    });
    nodes.chain(spaces).chain(pods).chain(policies).collect()
}

#[test]
#[expect(clippy::print_stderr, reason = "figures")]
fn a_hundred_thousand_probes_are_answered_in_ten_seconds() {
    let scene = Scene::new(&cluster());
    let count = if cfg!(debug_assertions) { PROBES / DEBUG_SHARE } else { PROBES };
    let probe = |n: usize| {
        let name = |n: usize| format!("ns-{}/pod-{n}", n % 20);
        let (from, to) = (name(n * 7 % 1000), name(n / 3 % 1000));
        let mut probe = probe(&from, &to, ["TCP", "UDP", "SCTP"][n % 3], [80, 53, 8080][n / 5 % 3]);
        probe["family"] = json!(if n.is_multiple_of(2) { 4 } else { 6 });
        probe
    };
    let probes: Vec<Value> = (0..count).map(probe).collect();
    scene.write("probes.json", &Value::from(probes).to_string());
    let start = Instant::now();
    let output = scene.explain(&["--probes", "probes.json", "--json"]);
    let taken = start.elapsed();
    assert!(output.status.success());
    eprintln!("{count} probes in {taken:?}");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), count);
    for verdict in ["allow", "deny"] {
        let share = answers.iter().filter(|answer| answer["verdict"] == verdict).count();
        assert!(share > count / 10, "{verdict}: {share}");
    }
    assert!(taken <= ANSWERED_MAX, "{taken:?}");
}
