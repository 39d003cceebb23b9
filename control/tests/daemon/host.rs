//! The node's own way to the pods, the manifests behind it, and what the operator sees.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    engine::FixtureEngine,
    node::{LIMIT, Node, ip_json, need_namespaces, run},
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// The destinations of our routes in a node, once they fulfil a condition.
async fn until_routes(node: &Node, what: &str, condition: impl Fn(&[String]) -> bool) {
    let started = Instant::now();
    loop {
        let routes: Vec<String> = ["-4", "-6"]
            .iter()
            .flat_map(|family| {
                let routes = ip_json(&node.namespace(), &[family, "route", "show", "proto", "118"]);
                routes.as_array().unwrap().clone()
            })
            .map(|route| route["dst"].as_str().unwrap().to_owned())
            .collect();
        if condition(&routes) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{what}: {routes:?}\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_the_node_follow_the_cluster() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    until_routes(&node, "own ranges", |routes| routes == ["10.244.1.0/24", "fd00:10:244:1::/64"])
        .await;
    let own = node.namespace();
    let status = node.status().await;
    assert_eq!((&*status.router_mac, status.pod_mtu_bytes), ("0a:58:c0:00:02:01", 1450));
    let route = ip_json(&own, &["route", "show", "10.244.1.0/24"]);
    assert_eq!(route[0]["prefsrc"], "192.0.2.1", "{route}");
    assert_eq!(route[0]["gateway"], "10.244.1.1", "{route}");
    let link = ip_json(&own, &["address", "show", "dev", "vrhost0"]);
    assert_eq!(link[0]["address"], "0a:58:c0:00:02:01", "the MAC address follows from InternalIP");
    assert_eq!((&link[0]["mtu"], &link[0]["addr_info"]), (&json!(1450), &json!([])), "{link}");
    let neighbours = ip_json(&own, &["neighbour", "show", "dev", "vrhost0", "nud", "permanent"]);
    assert_eq!(neighbours.as_array().unwrap().len(), 2, "{neighbours}");
    let rp_filter =
        run("ip", &["netns", "exec", &own, "cat", "/proc/sys/net/ipv4/conf/vrhost0/rp_filter"]);
    assert_eq!(rp_filter.trim(), "2");

    node.write_node("node-b", "10.244.2.0/24", "192.0.2.2", "2001:db8::2");
    until_routes(&node, "node-b's range", |routes| routes.contains(&"10.244.2.0/24".to_owned()))
        .await;
    node.write_node("node-b", "10.244.3.0/24", "192.0.2.2", "2001:db8::2");
    until_routes(&node, "node-b's new range", |routes| {
        routes == ["10.244.1.0/24", "10.244.3.0/24", "fd00:10:244:1::/64"]
    })
    .await;
    // This node's own range moves away from under a pod.
    node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    node.write_node("node-a", "10.244.8.0/24", "192.0.2.1", "2001:db8::1");
    node.until_status("the pod is misplaced", |status| {
        status.problems.iter().any(|text| text.contains("pod demo/web has 10.244.1.2"))
    })
    .await;
    // A restart leaves it as it is.
    let index = ip_json(&own, &["link", "show", "vrhost0"])[0]["ifindex"].clone();
    node.kill();
    node.start().await;
    assert_eq!(ip_json(&own, &["link", "show", "vrhost0"])[0]["ifindex"], index);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_yaml_keeps_the_last_good_state_also_through_a_restart() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.write_node("node-b", "10.244.2.0/24", "192.0.2.2", "2001:db8::2");
    node.start().await;
    engine.until("the tunnel", |recorded| format!("{recorded:?}").contains("node-b/ipv4")).await;
    node.write_manifest("node-b.yaml", "kind: Node\nmetadata: {name: node-b\nspec: [\n");
    let broken = |status: &control_api::node::Status| {
        !status.source_in_sync && status.problems.iter().any(|text| text.contains("node-b.yaml:"))
    };
    let status = node.until_status("the problem is named", broken).await;
    assert_eq!(status.nodes, 2, "the last good state stays in force");
    node.kill();
    node.start().await;
    let status = node.until_status("the problem is named again", broken).await;
    assert_eq!(status.nodes, 2, "also through a restart");
    node.write_node("node-b", "10.244.2.0/24", "192.0.2.2", "2001:db8::2");
    node.until_status("mended", |status| status.source_in_sync && status.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictions_are_named_and_the_rest_stays_in_force() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.write_node("node-b", "10.244.1.0/24", "192.0.2.2", "2001:db8::2");
    let status = node
        .until_status("the overlap", |status| {
            status
                .problems
                .iter()
                .any(|text| text.contains("overlaps 10.244.1.0/24 of node node-a"))
        })
        .await;
    assert_eq!((status.nodes, status.source_in_sync), (1, true));
    // This node's own object vanishes: what was in force stays.
    node.write_manifest("node-b.yaml", "");
    node.write_manifest("node-a.yaml", "");
    let status = node
        .until_status("this node is missing", |status| {
            status.problems.iter().any(|text| text.contains("there is no Node node-a"))
        })
        .await;
    assert_eq!(status.nodes, 1);
    node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_that_is_not_there_is_named() {
    need_namespaces!();
    let node = Node::new(RANGES);
    run("ip", &["-n", &node.namespace(), "link", "del", "uplink0"]);
    let output = node.run_to_end(&[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("no interface uplink0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pods_follow_the_uplinks_mtu_and_running_ones_keep_theirs() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.until_in_step().await;
    let own = node.namespace();
    let mtu = |namespace: &str, name: &str| {
        ip_json(namespace, &["link", "show", "dev", name])[0]["mtu"].clone()
    };
    let (before, after) = (node.add_pod("before"), node.add_pod("after"));
    node.verb("ADD", "before").succeed().await;
    run("ip", &["-n", &own, "link", "set", "uplink0", "mtu", "1400"]);
    let result = node.verb("ADD", "after").succeed().await;
    assert_eq!(result["interfaces"][1]["mtu"], 1350);
    assert_eq!((mtu(&before, "eth0"), mtu(&after, "eth0")), (json!(1450), json!(1350)));
    node.until_status("the status follows", |status| status.pod_mtu_bytes == 1350).await;
    // Too small for IPv6 in the tunnel: named, and the last one stays.
    run("ip", &["-n", &own, "link", "set", "uplink0", "mtu", "1300"]);
    let is_named = |status: &control_api::node::Status| {
        status.problems.iter().any(|text| text.contains("uplink0 has an MTU of 1300"))
    };
    let status = node.until_status("the MTU is too small", is_named).await;
    assert_eq!(status.pod_mtu_bytes, 1350);
    run("ip", &["-n", &own, "link", "set", "uplink0", "mtu", "1500"]);
    node.until_status("mended", |status| status.pod_mtu_bytes == 1450 && !is_named(status)).await;
    // The host port follows behind the status.
    let started = Instant::now();
    while mtu(&own, "vrhost0") != 1450 {
        assert!(started.elapsed() < LIMIT, "vrhost0 has {}\n{}", mtu(&own, "vrhost0"), node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_wrong_and_changes_nothing() {
    need_namespaces!();
    let node = Node::new(RANGES);
    let output = node.run_to_end(&["--check"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("is fine: node node-a"), "{text}");
    node.write_manifest("bad.yaml", "kind: [");
    let output = node.run_to_end(&["--check"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("bad.yaml:"));
    node.write_config("uplinkk = 'x'");
    let text = String::from_utf8(node.run_to_end(&["--check"]).stderr).unwrap();
    assert!(text.contains("did you mean `uplink`?"), "{text}");
    assert!(!node.path("state").exists());
}

/// The names of the metrics in a text of Prometheus' format.
fn names(text: &str) -> Vec<&str> {
    let is_sample = |line: &&str| !line.starts_with('#') && !line.is_empty();
    let mut names: Vec<&str> =
        text.lines().filter(is_sample).filter_map(|line| line.split(['{', ' ']).next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_that_the_documentation_lists() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    let config = std::fs::read_to_string(node.path("vrouter.toml")).unwrap();
    let (engine, control) = config.rsplit_once("metrics = ''").unwrap();
    let config = format!("{engine}metrics = '127.0.0.1:9301'{control}");
    std::fs::write(node.path("vrouter.toml"), config).unwrap();
    // A part of it says nothing possible.
    node.write_manifest(
        "policy.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: demo, name: \
         web}\nspec: {podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}\n",
    );
    node.start().await;
    node.add_pod("web");
    let _: Value = node.verb("ADD", "web").succeed().await;
    let own = node.namespace();
    let page = run(
        "ip",
        &[
            "netns",
            "exec",
            &own,
            "curl",
            "-sS",
            "--max-time",
            "60",
            "http://127.0.0.1:9301/metrics",
        ],
    );
    assert!(
        page.contains(r#"vrouter_cni_requests_total{command="ADD",result="success"} 1"#),
        "{page}"
    );
    assert!(page.contains(r#"vrouter_addresses{range="10.244.1.0/24",state="used"} 1"#), "{page}");
    for line in [
        "vrouter_policies 1",
        r#"vrouter_policy_refused_parts{consequence="rule_allows_nothing"} 1"#,
        r#"vrouter_policy_refused_parts{consequence="policy_allows_nothing"} 0"#,
        r#"vrouter_policy_isolated_ports{direction="ingress"} 1"#,
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documented = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    for name in names(&page) {
        assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
}
