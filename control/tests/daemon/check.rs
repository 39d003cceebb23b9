//! CHECK: what it notices, and what it leaves to others.

use control_api::engine::PortError;
use serde_json::{Value, json};

use crate::{
    cni::start,
    node::{Node, need_namespaces, run},
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// Runs `ip` in a namespace.
fn ip(namespace: &str, arguments: &str) {
    let words: Vec<&str> = arguments.split(' ').collect();
    run("ip", &[&["-n", namespace], &words[..]].concat());
}

/// CHECK must fail with a code and name a word.
async fn assert_found(node: &Node, result: &Value, code: u32, word: &str) {
    let message = node.verb("CHECK", "web").with("prevResult", result.clone()).fail(code).await;
    assert!(message.contains(word), "{word}: {message}");
}

async fn assert_fine(node: &Node, result: &Value) {
    node.verb("CHECK", "web").with("prevResult", result.clone()).succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_notices_what_is_missing_and_tolerates_what_others_added() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    let result = node.verb("ADD", "web").succeed().await;
    assert_fine(&node, &result).await;
    // What a later plugin in the chain may do.
    ip(&pod, "address add 198.51.100.7/32 dev eth0");
    ip(&pod, "route add 198.51.100.0/24 dev eth0");
    assert_fine(&node, &result).await;

    ip(&pod, "address del 10.244.1.2/32 dev eth0");
    assert_found(&node, &result, 102, "10.244.1.2").await;
    ip(&pod, "address add 10.244.1.2/32 dev eth0");
    ip(&pod, "link set eth0 address 0a:00:00:00:00:99");
    assert_found(&node, &result, 102, "0a:00:00:00:00:99").await;
    ip(&pod, "link set eth0 address 0a:58:0a:f4:01:02");
    let (own, host) = (node.namespace(), node.host_interfaces().remove(0));
    ip(&own, &format!("link set {host} down"));
    assert_found(&node, &result, 102, &host).await;
    ip(&own, &format!("link set {host} up"));
    assert_fine(&node, &result).await;

    let error = PortError { port: "demo/web".to_owned(), message: "queue busy".to_owned() };
    engine.set(|recorded| recorded.port_errors = vec![error]);
    assert_found(&node, &result, 101, "queue busy").await;
    engine.set(|recorded| recorded.port_errors.clear());
    let port = engine.recorded.borrow().ports["demo/web"].clone();
    engine.set(|recorded| drop(recorded.ports.remove("demo/web")));
    assert_found(&node, &result, 101, "does not have the port demo/web").await;
    engine.set(|recorded| drop(recorded.ports.insert("demo/web".to_owned(), port)));
    assert_fine(&node, &result).await;

    ip(&pod, "link set eth0 down");
    assert_found(&node, &result, 102, "switched off").await;
    ip(&pod, "link del eth0");
    // Control finds out by itself, too, now and then: then it has no such attachment any more.
    let answer = node.verb("CHECK", "web").with("prevResult", result.clone()).call().await;
    assert!([102, 3].map(Value::from).contains(&answer.printed["code"]), "{answer:?}");
    node.verb("DEL", "web").succeed().await;
    assert_found(&node, &result, 3, "id-web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_compares_with_the_result_that_it_is_given() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("web");
    let earlier = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "mac": "0a:00:00:00:00:01", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.77/32", "interface": 0}],
    });
    let result = node.verb("ADD", "web").with("prevResult", earlier.clone()).succeed().await;
    // Other plugins' parts are theirs to check.
    assert_fine(&node, &result).await;
    assert_found(&node, &earlier, 7, "10.244.1.2").await;
    engine.stop().await;
    node.until_status("disconnected", |status| !status.engine_connected).await;
    assert_found(&node, &result, 51, "engine.sock").await;
}
