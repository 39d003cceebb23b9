//! `vrctl explain` and `vrctl policy diff` beside an engine that has policies.

use std::{fs, path::Path, sync::Arc};

use control::{
    attachment::{Attachment, AttachmentKey, Means, Phase},
    compile::{Backend, Dataplane, GuestPort, compile, replay::replay_objects},
    mac::MacAddress,
    manifests::load_folder,
    names::{NodeName, PodName},
    node_policy::NodePolicy,
};
use control_api::engine::{Object, VxlanSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Engine;

const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.10}, {ip: "fd00:10:244:1::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.11}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, labels: {app: client}}
spec: {nodeName: node-b, containers: []}
status: {podIPs: [{ip: 10.244.2.10}]}
"#;

const ONLY_CLIENTS: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80}]
";

/// A folder of manifests with the cluster and this policy.
fn manifests(policy: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.yaml"), CLUSTER).unwrap();
    fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    folder
}

/// An engine that has what control makes of the manifests for node-a.
fn engine(policy: &str) -> Engine {
    let (cluster, problems) = load_folder(manifests(policy).path());
    assert!(problems.is_empty(), "{problems:?}");
    Engine::start_with(replay_objects(&cluster, &NodeName::new("node-a")).unwrap())
}

/// What control sends to node-a's engine while these interfaces are attached.
fn attached_objects(manifests: &Path, here: &[(&str, &str, &str)]) -> Vec<Object> {
    let attachment = |(pod, interface, address): &(&str, &str, &str)| {
        let (namespace, name) = pod.split_once('/').unwrap();
        let key = AttachmentKey { container_id: name.into(), ifname: (*interface).into() };
        Attachment {
            key,
            phase: Phase::Ready,
            network: String::new(),
            netns: String::new(),
            pod: PodName::new(namespace, name),
            addresses: vec![address.parse().unwrap()],
            mac: None,
            mtu_bytes: 1450,
            host_interface: String::new(),
            means: Means::Veth,
            delegate: None,
        }
    };
    let here = here.iter().map(attachment).map(|it| (it.key.clone(), it)).collect();
    let (cluster, _) = load_folder(manifests);
    let (cluster, node) = (Arc::new(cluster), NodeName::new("node-a"));
    let mut policy = NodePolicy::new(node.clone());
    policy.follow(&cluster, &here);
    let guests = here.values().map(|it| GuestPort {
        name: it.port(),
        addresses: it.addresses.clone(),
        mac: MacAddress::from_preferred(&it.addresses).unwrap(),
        mtu_bytes: 1450,
        backend: Backend::Memory,
        description: String::new(),
        policy: policy.assignment(&it.pod),
    });
    let dataplane = Dataplane {
        vxlan: VxlanSettings::default(),
        uplink: Backend::Memory,
        uplink_mtu_bytes: 1500,
        host: Backend::Memory,
        host_mtu_bytes: 1450,
    };
    let objects = compile(&cluster, &node, &dataplane, &guests.collect::<Vec<_>>()).unwrap();
    objects.with(policy.objects()).iter().cloned().collect()
}

#[test]
fn the_engine_explains_what_is_in_force() {
    let engine = engine(ONLY_CLIENTS);
    let ask = |from: &str, to: &str, port: &str| {
        engine.json(&["explain", "--from", from, "--to", to, "--port", port])
    };
    let allowed = ask("shop/client", "shop/web", "80");
    assert_eq!(allowed["verdict"], "allow");
    assert_eq!(
        allowed["from"],
        json!({"pod": "shop/client", "ip": "10.244.1.11", "node": "node-a"})
    );
    let reason = &allowed["ingress_reason"];
    assert_eq!((&reason["cause"], &reason["node"]), (&json!("rule"), &json!("node-a")));
    let rule = json!({"policy": "shop/clients", "index": 0, "path": "spec.ingress[0].from[0]"});
    assert_eq!((&reason["rule"], &reason["policies"]), (&rule, &json!(["shop/clients"])));
    assert_eq!(allowed["egress_reason"]["cause"], "not_isolated");
    let denied = ask("10.244.1.11", "shop/web", "443");
    assert_eq!((&denied["verdict"], &denied["ingress"]), (&json!("deny"), &json!("deny")));
    assert_eq!(denied["from"]["pod"], "shop/client", "an address of a pod is that pod");
    assert_eq!(ask("203.0.113.9", "shop/client", "80")["egress_reason"]["cause"], "not_a_pod");
    assert_eq!(ask("shop/web", "shop/web", "9")["ingress_reason"]["cause"], "itself");
    assert_eq!(ask("192.0.2.1", "shop/web", "9")["ingress_reason"]["cause"], "own_node");
}

#[test]
fn a_family_that_the_ends_do_not_share_gives_way_to_the_one_they_do() {
    let engine = engine(ONLY_CLIENTS);
    for family in ["4", "6"] {
        let ends = ["--from", "shop/client", "--to", "shop/web", "--port", "80"];
        let answer = engine.json(&[&["explain", "--family", family][..], &ends].concat());
        assert_eq!(answer["to"]["ip"], "10.244.1.10", "the client has IPv4 only");
    }
    for family in [&["--family", "4"][..], &[]] {
        let ends = ["explain", "--from", "2001:db8:7::1", "--to", "shop/web", "--port", "80"];
        let answer = engine.json(&[&ends[..], family].concat());
        assert_eq!(answer["to"]["ip"], "fd00:10:244:1::10");
    }
}

#[test]
fn what_another_node_judges_is_unknown_and_not_guessed() {
    let engine = engine(ONLY_CLIENTS);
    let ask = ["explain", "--from", "shop/client", "--to", "10.244.2.10", "--port", "80"];
    let answer = engine.json(&ask);
    assert_eq!((&answer["verdict"], &answer["ingress"]), (&Value::Null, &Value::Null));
    assert_eq!(answer["egress"], "allow");
    assert_eq!(answer["ingress_reason"]["cause"], "not_here");
    let text = engine.text(&ask);
    assert!(text.starts_with("unknown: shop/client"), "{text}");
    assert!(text.contains("behind tunnel node-b/ipv4: ask the engine of that node"), "{text}");
    // One end that denies is enough.
    let answer =
        engine.json(&["explain", "--from", "10.244.2.99", "--to", "shop/web", "--port", "80"]);
    assert_eq!((&answer["verdict"], &answer["egress"]), (&json!("deny"), &Value::Null));
}

#[test]
fn a_pod_that_nobody_here_knows_is_an_error() {
    let engine = engine(ONLY_CLIENTS);
    let ask = ["explain", "--from", "shop/far", "--to", "shop/web", "--port", "80"];
    let output = engine.vrctl(&ask);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no port of this engine is pod shop/far"), "{error}");
    assert!(error.contains("/nonexistent/control.sock"), "{error}");
    let probes = json!([{"from": {"pod": "shop/far"}, "to": {"pod": "shop/web"}, "port": 80},
        {"from": {"pod": "shop/client"}, "to": {"pod": "shop/web"}, "port": 80}]);
    let file = engine.folder.path().join("probes.json");
    fs::write(&file, probes.to_string()).unwrap();
    let output = engine.vrctl(&["explain", "--probes", file.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answers[0]["error"].is_string(), "{answers}");
    assert_eq!(answers[1]["verdict"], "allow");
}

#[test]
fn a_diff_tells_which_verdicts_would_change_and_changes_none() {
    let engine = engine(ONLY_CLIENTS);
    let diff = |policy: &str| {
        let folder = manifests(policy);
        let folder = folder.path().to_str().unwrap();
        let output = engine.vrctl(&["policy", "diff", "--manifests", folder, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (report, output.status.code())
    };
    let (same, code) = diff(ONLY_CLIENTS);
    assert_eq!((&same["changes"], code), (&json!([]), Some(0)));
    assert!(same["connections_judged"].as_u64().unwrap() > 50, "{same}");

    let (tighter, code) = diff(&ONLY_CLIENTS.replace("port: 80", "port: 443"));
    assert_eq!(code, Some(4));
    let changes = tighter["changes"].as_array().unwrap();
    let find = |traffic: &str| {
        let found = changes.iter().find(|change| {
            change["from"]["pod"] == "shop/client" && change["traffic"] == json!([traffic])
        });
        found.unwrap_or_else(|| panic!("{tighter:#}"))
    };
    let closed = find("TCP 80");
    assert_eq!((&closed["before"], &closed["after"]), (&json!("allow"), &json!("deny")));
    assert_eq!((&closed["kind"], &closed["direction"]), (&json!("new"), &json!("ingress")));
    assert_eq!(closed["before_reason"]["rule"]["policy"], "shop/clients");
    assert_eq!(find("TCP 443")["after"], "allow");
    // The far client's ingress is no business of this node's, its egress neither.
    assert!(changes.iter().all(|change| change["to"]["pod"] == "shop/web"), "{tighter:#}");

    let still =
        engine.json(&["explain", "--from", "shop/client", "--to", "shop/web", "--port", "80"]);
    assert_eq!(still["verdict"], "allow", "nothing was applied");
}

#[test]
fn a_diff_knows_all_interfaces_of_a_pod_and_the_pod_that_is_attached() {
    // On the node: a second interface, and a pod whose object came too late for its address.
    const LATE: &str = r"
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: aaa, labels: {app: client}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.12}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.12}]}
";
    let policy = format!("{ONLY_CLIENTS}{LATE}");
    let folder = manifests(&policy);
    let here = [
        ("shop/web", "eth0", "10.244.1.10"),
        ("shop/web", "net1", "10.244.1.40"),
        ("shop/client", "eth0", "10.244.1.11"),
        ("shop/new", "eth0", "10.244.1.12"),
    ];
    let engine = Engine::start_with(attached_objects(folder.path(), &here));
    let ask = |from: &str, to: &str| {
        engine.json(&["explain", "--from", from, "--to", to, "--port", "443"])
    };
    assert_eq!(ask("shop/client", "10.244.1.40")["ingress"], "deny", "of its second interface");
    assert_eq!(ask("shop/client", "10.244.1.40")["to"]["pod"], "shop/web");
    assert_eq!(ask("shop/client", "shop/new")["ingress"], "deny", "by its labels");
    let folder = folder.path().to_str().unwrap();
    let output = engine.vrctl(&["policy", "diff", "--manifests", folder, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((&report["changes"], output.status.code()), (&json!([]), Some(0)), "{report:#}");
}

#[test]
fn people_read_a_table_of_what_would_change() {
    let engine = engine(ONLY_CLIENTS);
    let folder = manifests("");
    let folder = folder.path().to_str().unwrap();
    let output = engine.vrctl(&["policy", "diff", "--manifests", folder]);
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("WHAT  CHANGE         DIRECTION  FROM"), "{text}");
    assert!(text.contains("new   deny to allow  ingress"), "{text}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("verdicts would change; nothing was applied"), "{error}");
}

#[test]
fn two_folders_are_compared_without_an_engine() {
    let engine = Engine::start();
    let (now, proposed) = (manifests(ONLY_CLIENTS), manifests(""));
    let [now, proposed] = [&now, &proposed].map(|folder| folder.path().to_str().unwrap());
    let away = ["--socket", "/nonexistent/engine.sock"];
    let diff = ["policy", "diff", "--manifests", proposed, "--from-manifests", now, "--json"];
    let output = engine.vrctl(&[&diff[..], &away].concat());
    assert_eq!(output.status.code(), Some(4));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let opened = report["changes"].as_array().unwrap();
    assert!(
        opened.iter().all(|change| change["after"] == "allow" && change["to"]["pod"] == "shop/web")
    );
    assert!(opened.iter().any(|change| change["from"]["pod"] == "shop/far"), "{report:#}");
}
