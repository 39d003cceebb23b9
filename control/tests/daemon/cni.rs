//! The CNI verbs, asked as a container runtime asks them, with real namespaces and interfaces.

use std::{collections::BTreeSet, slice};

use control::attachment::AttachmentKey;
use control_api::engine::PortError;
use serde_json::{Value, json};

use crate::engine::FixtureEngine;
use crate::node::{Node, delete_namespace, ip_json, need_namespaces, run};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

pub(crate) async fn start(ranges: &str) -> (Node, FixtureEngine) {
    let mut node = Node::new(ranges);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.until_in_step().await;
    (node, engine)
}

/// Nothing that an attachment could leave behind is there.
pub(crate) async fn assert_nothing_is_left(node: &Node, engine: &FixtureEngine) {
    assert_eq!(node.host_interfaces(), Vec::<String>::new());
    assert_eq!(node.attachments().await, []);
    let ports: Vec<_> = engine.recorded.borrow().ports.keys().cloned().collect();
    assert_eq!(ports, ["host", "uplink"]);
    assert!(node.status().await.ranges.iter().all(|range| range.used == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_attached_checked_and_detached() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    let result = node.verb("ADD", "web").succeed().await;
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::2/128");
    assert_eq!(result["interfaces"][1]["mac"], "0a:58:0a:f4:01:02");
    assert_eq!(result["interfaces"][1]["mtu"], 1450);

    let link = ip_json(&pod, &["-details", "link", "show", "eth0"]);
    assert_eq!(link[0]["address"], "0a:58:0a:f4:01:02");
    assert_eq!((&link[0]["mtu"], &link[0]["num_tx_queues"]), (&json!(1450), &json!(1)));
    let addresses = ip_json(&pod, &["address", "show", "dev", "eth0", "scope", "global"]);
    assert_eq!(addresses.to_string().matches("\"local\"").count(), 2, "{addresses:#}");
    assert!(!addresses.to_string().contains("tentative"), "{addresses}");
    for family in ["-4", "-6"] {
        let default = ip_json(&pod, &[family, "route", "show", "default"]);
        assert_eq!(default[0]["dev"], "eth0", "{default}");
    }
    let host = node.host_interfaces();
    let link = ip_json(&node.namespace(), &["link", "show", "dev", &host[0]]);
    assert_eq!(link[0]["ifalias"], "vrouter:node-a:id-web/eth0");
    let link = ip_json(&node.namespace(), &["address", "show", "dev", &host[0]]);
    assert!(link[0]["flags"].to_string().contains("NOARP"), "{link}");
    assert_eq!(link[0]["addr_info"], json!([]), "the node's stack has no address there");

    for (setting, value) in [("ipv6/conf/X/disable_ipv6", "1"), ("ipv4/conf/X/rp_filter", "1")] {
        let path = format!("/proc/sys/net/{}", setting.replace('X', &host[0]));
        let found = run("ip", &["netns", "exec", &node.namespace(), "cat", &path]);
        assert_eq!(found.trim(), value, "{path}: without the engine, the node takes nothing");
    }

    let port = engine.recorded.borrow().ports["demo/web"].clone();
    assert_eq!(port.addresses[0], [10, 244, 1, 2]);
    assert_eq!(port.mtu_bytes, 1450);

    node.verb("CHECK", "web").with("prevResult", result.clone()).succeed().await;
    node.verb("CHECK", "web").fail(7).await;
    run("ip", &["-n", &pod, "-6", "route", "del", "default"]);
    let message = node.verb("CHECK", "web").with("prevResult", result).fail(102).await;
    assert!(message.contains("fd00:10:244:1::1"), "{message}");

    node.verb("DEL", "web").succeed().await;
    node.verb("DEL", "web").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_add_fails_and_the_first_stays() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    node.verb("ADD", "web").fail(100).await;
    assert_eq!(ip_json(&pod, &["link", "show", "eth0"])[0]["ifname"], "eth0");
    assert!(engine.recorded.borrow().ports.contains_key("demo/web"));
    // The same pod in a new sandbox, while the old one lives: only after its DEL.
    let _other = node.add_pod("other");
    let other = node.verb("ADD", "web").container("id-new").netns("/proc/self/ns/net");
    assert!(other.fail(4).await.contains("the node's own namespace"));
    let again = format!("/run/netns/{}", pod.replace("web", "other"));
    let message = node.verb("ADD", "web").container("id-new").netns(&again).fail(11).await;
    assert!(message.contains("id-web"), "{message}");
    // The old sandbox ended without a DEL: then the new one takes over.
    delete_namespace(&pod);
    node.until_interfaces_are_gone().await;
    node.verb("ADD", "web").container("id-new").netns(&again).succeed().await;
    node.verb("DEL", "web").container("id-new").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn del_succeeds_without_add_and_without_a_namespace() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.verb("DEL", "never").netns("").succeed().await;
    node.verb("DEL", "never").netns("/run/netns/gone").succeed().await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    delete_namespace(&pod);
    node.verb("DEL", "web").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_without_a_del_gives_its_address_back_without_a_restart() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    delete_namespace(&pod);
    let is_free = |status: &control_api::node::Status| {
        status.attachments == 0 && status.ranges.iter().all(|range| range.used == 0)
    };
    node.until_status("the address is back", is_free).await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_that_fails_leaves_nothing() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").netns("/run/netns/nowhere").fail(4).await;
    let message = node.verb("ADD", "web").netns("/etc/hosts").fail(4).await;
    assert!(message.contains("/etc/hosts is no namespace"), "{message}");
    // An interface of that name is there.
    run("ip", &["-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "x"]);
    node.verb("ADD", "web").fail(100).await;
    run("ip", &["-n", &pod, "link", "del", "eth0"]);
    assert_nothing_is_left(&node, &engine).await;
    // The engine cannot open the port.
    let error = PortError { port: "demo/web".to_owned(), message: "queue busy".to_owned() };
    engine.set(|recorded| recorded.port_errors = vec![error]);
    assert!(node.verb("ADD", "web").fail(101).await.contains("queue busy"));
    assert_nothing_is_left(&node, &engine).await;
    // The engine refuses the batch.
    engine.set(|recorded| recorded.port_errors.clear());
    engine.set(|recorded| recorded.refusal = Some("no".to_owned()));
    node.verb("ADD", "web").fail(11).await;
    assert_eq!(node.host_interfaces(), Vec::<String>::new());
    engine.set(|recorded| recorded.refusal = None);
    node.verb("ADD", "web").succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_interface_of_an_attachments_name_stays() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("web");
    let key = AttachmentKey { container_id: "id-web".into(), ifname: "eth0".into() };
    let name = key.host_interface();
    let own = node.namespace();
    run("ip", &["-n", &own, "link", "add", &name, "type", "veth", "peer", "name", "x"]);
    run("ip", &["-n", &own, "link", "set", &name, "up"]);
    let message = node.verb("ADD", "web").fail(100).await;
    assert!(message.contains(&name), "{message}");
    node.verb("DEL", "web").succeed().await;
    assert_eq!(node.host_interfaces(), slice::from_ref(&name));
    run("ip", &["-n", &own, "link", "del", &name]);
    node.verb("ADD", "web").succeed().await;
    node.verb("DEL", "web").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn add_returns_only_after_the_engine_acknowledged() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let _pod = node.add_pod("web");
    engine.set(|recorded| recorded.is_held = true);
    let mut add = std::pin::pin!(node.verb("ADD", "web").call());
    let is_done = tokio::time::timeout(std::time::Duration::from_secs(3), &mut add).await.is_ok();
    assert!(!is_done, "ADD returned before the engine had the port");
    engine.set(|recorded| recorded.is_held = false);
    assert!(add.await.is_success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_whose_plugin_is_killed_is_undone() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    engine.set(|recorded| recorded.is_held = true);
    let mut plugin = node.verb("ADD", "web").spawn().await;
    let is_waiting = |_: &[_]| !node.host_interfaces().is_empty();
    node.until_attachments("the pair is made", is_waiting).await;
    plugin.kill().await.unwrap();
    // Although the engine is silent still.
    node.until_attachments("it is undone", <[_]>::is_empty).await;
    assert!(node.log().contains("the plugin was stopped"), "{}", node.log());
    engine.set(|recorded| recorded.is_held = false);
    node.until_in_step().await;
    assert_nothing_is_left(&node, &engine).await;
    assert_eq!(ip_json(&pod, &["link", "show"]).as_array().unwrap().len(), 1, "only lo");
    // And the runtime, which was not told anything, calls DEL; then the pod comes again.
    node.verb("DEL", "web").succeed().await;
    node.verb("ADD", "web").succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_del_whose_plugin_is_killed_goes_on() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    engine.set(|recorded| recorded.is_held = true);
    let mut plugin = node.verb("DEL", "web").spawn().await;
    let is_deleting = |found: &[control_api::node::Attachment]| {
        found.iter().all(|attachment| attachment.state == "deleting")
    };
    node.until_attachments("it has begun", is_deleting).await;
    plugin.kill().await.unwrap();
    node.until_attachments("it has ended", <[_]>::is_empty).await;
    engine.set(|recorded| recorded.is_held = false);
    node.until_in_step().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_in_parallel_get_an_address_each() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pods: Vec<String> = (0..8).map(|index| format!("p{index}")).collect();
    for pod in &pods {
        node.add_pod(pod);
    }
    let results =
        futures::future::join_all(pods.iter().map(|pod| node.verb("ADD", pod).succeed())).await;
    let addresses: BTreeSet<_> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    assert_eq!(addresses.len(), 8);
    assert_eq!(engine.recorded.borrow().ports.len(), 10);
    // GC keeps those that are in use.
    let valid = json!([{"containerID": "id-p0", "ifname": "eth0"}]);
    node.verb("GC", "").with("cni.dev/valid-attachments", valid).succeed().await;
    assert_eq!(node.attachments().await.len(), 1);
    node.verb("GC", "").fail(7).await;
    futures::future::join_all(pods.iter().map(|pod| node.verb("DEL", pod).succeed())).await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_addresses_are_said_by_add_and_status() {
    need_namespaces!();
    let (mut node, _engine) = start("10.244.1.0/30").await;
    for pod in ["one", "two"] {
        node.add_pod(pod);
    }
    node.verb("STATUS", "").succeed().await;
    node.verb("ADD", "one").succeed().await;
    let message = node.verb("ADD", "two").fail(11).await;
    assert!(message.contains("all 1 addresses of 10.244.1.0/30"), "{message}");
    node.verb("STATUS", "").fail(50).await;
    node.verb("DEL", "one").succeed().await;
    node.verb("ADD", "two").succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promised_addresses_count_as_taken_in_status() {
    need_namespaces!();
    let (mut node, _engine) = start("10.244.1.0/30").await;
    node.add_pod("other");
    node.verb("STATUS", "").succeed().await;
    node.write_manifest(
        "web.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace: demo, name: web}\n\
         spec: {nodeName: node-a}\nstatus: {podIPs: [{ip: 10.244.1.2}]}\n",
    );
    node.until_status("the pod is known", |status| status.pods == 1).await;
    node.verb("ADD", "other").fail(11).await;
    node.verb("STATUS", "").fail(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_add_say_who_is_away() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    node.add_pod("web");
    assert!(node.verb("STATUS", "").fail(50).await.contains("vrouter-control"));
    node.verb("ADD", "web").fail(11).await;
    node.start().await;
    node.verb("STATUS", "").fail(51).await;
    let message = node.verb("ADD", "web").fail(11).await;
    assert!(message.contains("engine.sock does not exist"), "{message}");
    assert_eq!(node.host_interfaces(), Vec::<String>::new());
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.until_status("connected", |status| status.engine_connected).await;
    node.verb("ADD", "web").succeed().await;
    node.verb("STATUS", "").succeed().await;
    // The engine is killed and comes back as another instance: it is told everything again.
    engine.stop().await;
    node.until_status("disconnected", |status| !status.engine_connected).await;
    node.verb("STATUS", "").fail(51).await;
    let engine = FixtureEngine::start(&node.engine_socket(), 2);
    engine.until("the pod's port", |recorded| recorded.ports.contains_key("demo/web")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_answered_in_itself() {
    need_namespaces!();
    let (mut node, _engine) = start(RANGES).await;
    let stopped = Node::new(RANGES);
    let answer = stopped.verb("VERSION", "").succeed().await;
    let versions: Vec<String> =
        serde_json::from_value(answer["supportedVersions"].clone()).unwrap();
    assert_eq!(versions, control::cni::VERSIONS);
    node.add_pod("web");
    for version in versions {
        let verb = |verb| node.verb(verb, "web").with("cniVersion", json!(version));
        let result = verb("ADD").succeed().await;
        assert_eq!(result["cniVersion"], json!(version));
        let has_family = result["ips"][0]["version"] == "4";
        assert_eq!(has_family, version.starts_with("0."), "{result}");
        let check = verb("CHECK").with("prevResult", result);
        if version == "0.3.1" {
            check.fail(1).await;
        } else {
            check.succeed().await;
        }
        verb("DEL").succeed().await;
    }
    node.verb("ADD", "web").with("cniVersion", json!("0.2.0")).fail(1).await;
    node.verb("STATUS", "").with("cniVersion", json!("1.0.0")).fail(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_carried_out_or_refused() {
    need_namespaces!();
    let (mut node, _engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    let runtime = |runtime: Value| node.verb("ADD", "web").with("runtimeConfig", runtime);
    let limits = json!({"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}});
    assert!(runtime(limits).fail(2).await.contains("bandwidth"));
    runtime(json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]})).fail(2).await;
    for outside in ["10.9.0.1", "10.244.1.1", "10.244.1.255", "fd00:10:244:1::1", "nonsense"] {
        assert!(runtime(json!({"ips": [outside]})).fail(7).await.contains(outside));
    }
    let message = runtime(json!({"mac": "01:00:5e:00:00:01"})).fail(7).await;
    assert!(message.contains("runtimeConfig.mac"), "{message}");
    let asked = json!({"mac": "0a:00:00:00:00:07", "ips": ["10.244.1.77/24"], "portMappings": []});
    let result = runtime(asked).succeed().await;
    node.add_pod("other");
    let other = node.verb("ADD", "other");
    let other = other.with("runtimeConfig", json!({"ips": ["fd00:10:244:1::9", "10.244.1.77"]}));
    assert!(other.fail(11).await.contains("10.244.1.77"));
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(result["ips"][0]["address"], "10.244.1.77/32");
    let link = ip_json(&pod, &["link", "show", "eth0"]);
    assert_eq!(link[0]["address"], "0a:00:00:00:00:07");
}

#[tokio::test(flavor = "multi_thread")]
async fn del_succeeds_after_an_add_that_was_refused() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("web");
    for runtime in [
        json!({"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}}),
        json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]}),
        json!({"deviceID": "0000:01:00.1"}),
    ] {
        let verb = |verb| node.verb(verb, "web").with("runtimeConfig", runtime.clone());
        verb("ADD").fail(2).await;
        verb("DEL").succeed().await;
    }
    for args in ["K8S_POD_NAME", "UNKNOWN=1", "MAC=x"] {
        node.verb("ADD", "web").args(args).fail(4).await;
        node.verb("DEL", "web").args(args).succeed().await;
    }
    // And it does its work.
    node.verb("ADD", "web").succeed().await;
    node.verb("DEL", "web").args("UNKNOWN=1").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_manifest_gets_exactly_its_addresses() {
    need_namespaces!();
    let (mut node, _engine) = start(RANGES).await;
    node.add_pod("web");
    node.add_pod("other");
    node.write_manifest(
        "web.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace: demo, name: web}\n\
         spec: {nodeName: node-a}\nstatus: {podIPs: [{ip: 10.244.1.2}, {ip: 'fd00:10:244:1::9'}]}\n",
    );
    node.until_status("the pod is known", |status| status.pods == 1).await;
    let other = node.verb("ADD", "other").succeed().await;
    assert_eq!(other["ips"][0]["address"], "10.244.1.3/32", "10.244.1.2 is reserved");
    let web = node.verb("ADD", "web").succeed().await;
    assert_eq!(web["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(web["ips"][1]["address"], "fd00:10:244:1::9/128");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chained_plugin_builds_upon_the_earlier_result() {
    need_namespaces!();
    let (mut node, _engine) = start(RANGES).await;
    node.add_pod("web");
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "mac": "0a:00:00:00:00:01", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.77/32", "interface": 0}],
    });
    let result = node.verb("ADD", "web").with("prevResult", previous).succeed().await;
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["ips"][0]["address"], "192.0.2.77/32");
    assert_eq!(result["ips"][1]["interface"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interface_leaves_the_default_route_to_the_first() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    let names = ["eth0", "net1"];
    let mut results = Vec::new();
    for name in names {
        results.push(node.verb("ADD", "web").ifname(name).succeed().await);
    }
    let routes = |result: &Value| result["routes"].as_array().unwrap().len();
    assert_eq!(results.iter().map(routes).collect::<Vec<_>>(), [2, 0]);
    for family in ["-4", "-6"] {
        let default = ip_json(&pod, &[family, "route", "show", "default"]);
        assert_eq!((default.as_array().unwrap().len(), &default[0]["dev"]), (1, &json!("eth0")));
        let second = ip_json(&pod, &[family, "route", "show", "dev", "net1"]);
        assert!(second.to_string().contains(":1\"") || second.to_string().contains(".1\""));
    }
    for (name, result) in names.iter().zip(&results) {
        let check = node.verb("CHECK", "web").ifname(name);
        check.with("prevResult", result.clone()).succeed().await;
    }
    // An interface's end makes no other one the default: who has asked for that?
    node.verb("DEL", "web").succeed().await;
    assert_eq!(ip_json(&pod, &["route", "show", "default"]), json!([]));
    let check = node.verb("CHECK", "web").ifname("net1");
    check.with("prevResult", results[1].clone()).succeed().await;
    // The first comes back as the default, beside the second.
    let again = node.verb("ADD", "web").succeed().await;
    assert_eq!(routes(&again), 2);
    assert_eq!(ip_json(&pod, &["route", "show", "default"])[0]["dev"], "eth0");
    for name in names {
        node.verb("DEL", "web").ifname(name).succeed().await;
    }
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_route_of_another_plugin_stays() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    run("ip", &["-n", &pod, "link", "add", "other0", "type", "veth", "peer", "name", "other1"]);
    run("ip", &["-n", &pod, "link", "set", "other0", "up"]);
    run("ip", &["-n", &pod, "route", "add", "default", "dev", "other0", "metric", "50"]);
    let result = node.verb("ADD", "web").succeed().await;
    assert_eq!(result["routes"], json!([{"dst": "::/0", "gw": "fd00:10:244:1::1"}]));
    let default = ip_json(&pod, &["-4", "route", "show", "default"]);
    assert_eq!((default.as_array().unwrap().len(), &default[0]["dev"]), (1, &json!("other0")));
    node.verb("CHECK", "web").with("prevResult", result).succeed().await;
    node.verb("DEL", "web").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
}
