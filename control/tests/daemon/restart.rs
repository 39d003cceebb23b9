//! What a restart of control makes of what it finds, and what it never touches.

use std::fs;

use control::{
    fault::{ADD_PLACES, DEL_PLACES},
    store::FILE_NAME,
};
use redb::ReadableTable;
use serde_json::json;

use crate::{
    engine::FixtureEngine,
    node::{Node, delete_namespace, ip_json, need_namespaces, run},
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// Waits until a killed control's successor has nothing left of its predecessor's.
async fn assert_nothing_is_left(node: &Node, engine: &FixtureEngine, place: &str) {
    node.until_in_step().await;
    assert_eq!(node.host_interfaces(), Vec::<String>::new(), "{place}");
    assert_eq!(node.attachments().await, [], "{place}");
    assert!(node.status().await.ranges.iter().all(|range| range.used == 0), "{place}");
    assert!(!engine.recorded.borrow().ports.contains_key("demo/web"), "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_between_any_two_steps_of_add_leaves_nothing() {
    need_namespaces!();
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: the places to die at are compiled in debug builds only");
        return;
    }
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    let pod = node.add_pod("web");
    for place in ADD_PLACES {
        node.spawn(Some(place));
        node.until_serving().await;
        let message = node.verb("ADD", "web").fail(11).await;
        assert!(message.contains("vrouter-control"), "{place}: {message}");
        node.until_ended();
        node.start().await;
        // The runtime was told that it failed, and calls DEL, maybe after the restart.
        if place == "add-ready" {
            node.verb("DEL", "web").succeed().await;
        }
        assert_nothing_is_left(&node, &engine, place).await;
        let links = ip_json(&pod, &["link", "show"]);
        assert_eq!(links.as_array().unwrap().len(), 1, "{place}: only lo: {links}");
        // And the same container can be attached.
        node.verb("ADD", "web").succeed().await;
        node.verb("DEL", "web").succeed().await;
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_between_any_two_steps_of_del_finishes_it() {
    need_namespaces!();
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: the places to die at are compiled in debug builds only");
        return;
    }
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.add_pod("web");
    for place in DEL_PLACES {
        node.spawn(Some(place));
        node.until_serving().await;
        node.verb("ADD", "web").succeed().await;
        node.verb("DEL", "web").fail(11).await;
        node.until_ended();
        node.start().await;
        assert_nothing_is_left(&node, &engine, place).await;
        node.verb("DEL", "web").succeed().await;
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_attachment_is_adopted_and_never_withdrawn() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    let pod = node.add_pod("web");
    let result = node.verb("ADD", "web").succeed().await;
    let before = ip_json(&pod, &["link", "show", "eth0"]);
    let batches = engine.recorded.borrow().batches.len();
    node.kill();
    node.start().await;
    let recorded =
        engine.until("the next full sync", |recorded| recorded.batches.len() > batches).await;
    let (header, batch) = recorded.batches.last().unwrap();
    assert!(header.full_sync);
    assert!(format!("{batch:?}").contains("demo/web"), "the pod stays in every batch");
    assert_eq!(ip_json(&pod, &["link", "show", "eth0"]), before);
    node.verb("CHECK", "web").with("prevResult", result).succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ended_meanwhile_gives_its_address_back() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    node.kill();
    delete_namespace(&pod);
    node.until_interfaces_are_gone().await;
    node.start().await;
    assert_nothing_is_left(&node, &engine, "after the restart").await;
}

/// Spoils the record of an attachment while control is away.
fn spoil(node: &Node, key: &str, change: impl FnOnce(&str) -> String) {
    let database = redb::Database::open(node.path("state").join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let table = redb::TableDefinition::<&str, &[u8]>::new("attachments");
        let mut table = transaction.open_table(table).unwrap();
        let before = table.get(key).unwrap().unwrap().value().to_vec();
        let after = change(std::str::from_utf8(&before).unwrap());
        table.insert(key, after.as_bytes()).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_goes_with_del_with_gc_or_with_its_container() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    for way in ["DEL", "GC", "container"] {
        let pod = node.add_pod("web");
        node.verb("ADD", "web").succeed().await;
        node.kill();
        // What a later version may write, and what a broken disk may leave.
        spoil(&node, "id-web/eth0", |text| match way {
            "GC" => text.replace("\"ready\"", "\"paused\""),
            _ => "{".to_owned(),
        });
        if way == "container" {
            delete_namespace(&pod);
            node.until_interfaces_are_gone().await;
        }
        node.start().await;
        if way != "container" {
            let named = |status: &control_api::node::Status| {
                status.problems.iter().any(|text| text.contains("id-web/eth0 cannot be read"))
            };
            node.until_status("it is named", named).await;
            assert_eq!(node.host_interfaces().len(), 1, "{way}: nobody has asked for its end yet");
            node.verb("ADD", "web").fail(5).await;
        }
        match way {
            "DEL" => drop(node.verb("DEL", "web").succeed().await),
            "GC" => {
                let gc = |network| {
                    let gc = node.verb("GC", "").with("name", json!(network));
                    gc.with("cni.dev/valid-attachments", json!([]))
                };
                gc("another").succeed().await;
                assert_eq!(node.host_interfaces().len(), 1, "another network's GC leaves it");
                gc("vrouter").succeed().await;
            }
            _ => {}
        }
        assert_nothing_is_left(&node, &engine, way).await;
        node.until_status("nothing is wrong", |status| status.problems.is_empty()).await;
        if way != "container" {
            delete_namespace(&pod);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_leftovers_go_and_other_plugins_pods_are_listed_and_stay() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let own = node.namespace();
    let other = node.add_pod("other");
    let make = |name: &str, peer: &str| {
        let pair = ["-n", &own, "link", "add", name, "type", "veth", "peer", "name", peer];
        run("ip", &[&pair[..], &["netns", &other]].concat());
        run("ip", &["-n", &own, "link", "set", name, "up"]);
    };
    make("vrleftover", "x0");
    run("ip", &["-n", &own, "link", "set", "vrleftover", "alias", "vrouter:node-a:gone/eth0"]);
    make("vrnotours", "x1");
    make("calico123", "x2");
    run("ip", &["-n", &own, "route", "add", "10.244.1.2/32", "dev", "calico123"]);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    let listed = node.attachments().await;
    let foreign: Vec<_> =
        listed.iter().map(|found| (&*found.host_interface, &*found.state)).collect();
    assert_eq!(foreign, [("vrnotours", "foreign"), ("calico123", "foreign")]);
    assert_eq!(listed[1].addresses, ["10.244.1.2"]);
    assert_eq!(node.host_interfaces(), ["vrnotours"]);
    // The address in use by the other plugin is not given out.
    node.add_pod("web");
    let result = node.verb("ADD", "web").succeed().await;
    assert_eq!(result["ips"][0]["address"], "10.244.1.3/32");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_taken_over_only_if_they_are_stale() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let socket = node.path("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    node.start().await;
    let second = node.run_to_end(&[]);
    assert!(!second.status.success());
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("served by another process"), "{text}");
    assert!(node.status().await.node_name == "node-a", "the first one still serves");
    node.kill();
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    let refused = node.run_to_end(&[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("is no socket"), "{text}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_removes_all_that_control_made() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    node.kill();
    let output = node.run_to_end(&["--cleanup"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let links = ip_json(&node.namespace(), &["link", "show"]);
    let names: Vec<_> = links.as_array().unwrap().iter().map(|link| &link["ifname"]).collect();
    assert_eq!(names, [&json!("lo"), &json!("uplink0")]);
    assert_eq!(ip_json(&node.namespace(), &["route", "show", "proto", "118"]), json!([]));
}
