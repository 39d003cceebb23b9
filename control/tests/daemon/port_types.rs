//! TAP devices and vhost-user sockets instead of veth pairs: each verb, restarts, and what is left.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use control::fault::{ADD_PLACES, DEL_PLACES};
use control_api::engine::{TapBackend, VhostUserBackend, port::Backend};
use serde_json::{Value, json};

use crate::{
    cni::{assert_nothing_is_left, start},
    engine::FixtureEngine,
    node::{LIMIT, Node, Verb, delete_namespace, ip_json, need_namespaces, run},
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

fn annotated(port_type: &str) -> Value {
    json!({ "io.kubernetes.cri.pod-annotations": { "vrouter.io/port-type": port_type } })
}

fn backend(engine: &FixtureEngine) -> Backend {
    engine.recorded.borrow().ports["demo/web"].backend.clone().unwrap()
}

fn tap_backend(engine: &FixtureEngine) -> TapBackend {
    match backend(engine) {
        Backend::Tap(tap) => tap,
        other => panic!("{other:?}"),
    }
}

fn socket_backend(engine: &FixtureEngine) -> VhostUserBackend {
    match backend(engine) {
        Backend::VhostUser(socket) => socket,
        other => panic!("{other:?}"),
    }
}

/// ADD with a configuration of its own.
fn add(node: &Node, config: Value) -> Verb<'_> {
    let mut verb = node.verb("ADD", "web");
    verb.config = config;
    verb
}

/// Waits until control has nothing left.
async fn until_nothing_is_left(node: &Node) {
    node.until_attachments("nothing is attached", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_attached_by_a_tap_device_checked_and_detached() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    let result = node.verb("ADD", "web").with("runtimeConfig", annotated("tap")).succeed().await;
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 1, "there is none on the node: {result:#}");
    assert_eq!(interfaces[0]["name"], "eth0");
    assert_eq!(interfaces[0]["mtu"], 1450);
    assert_eq!(result["ips"][1]["interface"], 0);

    let link = ip_json(&pod, &["-details", "link", "show", "eth0"]);
    assert_eq!(link[0]["address"], "0a:58:0a:f4:01:02");
    assert_eq!(
        (&link[0]["mtu"], &link[0]["ifalias"]),
        (&json!(1450), &json!("vrouter:node-a:id-web/eth0"))
    );
    let details = &link[0]["linkinfo"]["info_data"];
    for flag in ["multi_queue", "vnet_hdr", "persist"] {
        assert_eq!(details[flag], true, "{flag}: {link:#}");
    }
    let addresses = ip_json(&pod, &["address", "show", "dev", "eth0", "scope", "global"]);
    assert_eq!(addresses.to_string().matches("\"local\"").count(), 2, "{addresses:#}");
    let default = ip_json(&pod, &["-6", "route", "show", "default"]);
    assert_eq!(default[0]["dev"], "eth0", "{default}");
    assert_eq!(node.host_interfaces(), Vec::<String>::new());

    let backend = tap_backend(&engine);
    assert_eq!(backend.interface, "eth0");
    assert_eq!((backend.netns_path, backend.queues), (format!("/run/netns/{pod}"), 0));
    assert_eq!(node.attachments().await[0].port_type, "tap");

    node.verb("ADD", "web").with("portType", json!("tap")).fail(100).await;
    let check = || node.verb("CHECK", "web").with("prevResult", result.clone());
    check().succeed().await;
    run("ip", &["-n", &pod, "link", "set", "eth0", "down"]);
    let message = check().fail(102).await;
    assert!(message.contains("eth0 is switched off"), "{message}");
    run("ip", &["-n", &pod, "link", "del", "eth0"]);
    let message = check().fail(102).await;
    assert!(message.contains("no interface eth0"), "{message}");

    node.verb("DEL", "web").succeed().await;
    node.verb("DEL", "web").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
    // And once more, with the device still there at the end.
    node.verb("ADD", "web").with("portType", json!("tap")).succeed().await;
    node.verb("DEL", "web").netns("").succeed().await;
    assert_eq!(ip_json(&pod, &["link", "show"]).as_array().unwrap().len(), 1, "only lo");
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_the_port_type_is_the_network_then_the_pod_then_the_node() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    // What it is where nobody says anything.
    node.write_bare_config("");
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.until_in_step().await;
    node.add_pod("web");
    let manifest = |port_type: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: demo, name: web, \
             annotations: {{vrouter.io/port-type: {port_type}}}}}\nspec: {{nodeName: node-a}}\n"
        )
    };
    node.verb("ADD", "web").succeed().await;
    tap_backend(&engine);
    node.verb("DEL", "web").succeed().await;
    node.write_manifest("web.yaml", &manifest("veth"));
    node.until_status("the pod is known", |status| status.pods == 1).await;
    node.verb("ADD", "web").succeed().await;
    assert!(matches!(backend(&engine), Backend::AfXdp(_)));
    node.verb("DEL", "web").succeed().await;
    node.verb("ADD", "web").with("portType", json!("tap")).succeed().await;
    tap_backend(&engine);
    node.verb("DEL", "web").succeed().await;
    for asked in [("portType", json!("ipvlan")), ("runtimeConfig", annotated("ipvlan"))] {
        let message = node.verb("ADD", "web").with(asked.0, asked.1).fail(7).await;
        assert!(message.contains("`ipvlan` is none of \"veth\", \"tap\""), "{message}");
    }
    let config = [("portType", json!("ipvlan"))];
    for (key, value) in config {
        node.verb("DEL", "web").with(key, value).succeed().await;
    }
    until_nothing_is_left(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_in_the_pod_stays_its_owners() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    run("ip", &["-n", &pod, "tuntap", "add", "dev", "eth0", "mode", "tap", "multi_queue"]);
    run("ip", &["-n", &pod, "link", "set", "eth0", "alias", "somebody's"]);
    node.verb("ADD", "web").with("portType", json!("tap")).fail(100).await;
    assert_eq!(ip_json(&pod, &["link", "show", "eth0"])[0]["ifname"], "eth0");
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_device_outlives_control_and_goes_with_its_container() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let pod = node.add_pod("web");
    node.verb("ADD", "web").with("portType", json!("tap")).succeed().await;
    let index = ip_json(&pod, &["link", "show", "eth0"])[0]["ifindex"].clone();
    node.kill();
    node.start().await;
    node.until_in_step().await;
    assert_eq!(node.attachments().await[0].state, "ready");
    assert_eq!(ip_json(&pod, &["link", "show", "eth0"])[0]["ifindex"], index);
    tap_backend(&engine);
    node.kill();
    delete_namespace(&pod);
    node.start().await;
    node.until_in_step().await;
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_between_any_two_steps_leaves_no_tap_device() {
    need_namespaces!();
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: the places to die at are compiled in debug builds only");
        return;
    }
    let mut node = Node::new(RANGES);
    let _engine = FixtureEngine::start(&node.engine_socket(), 1);
    let pod = node.add_pod("web");
    let add = |node: &Node| node.verb("ADD", "web").with("portType", json!("tap")).config;
    for place in ADD_PLACES {
        node.spawn(Some(place));
        node.until_serving().await;
        let mut verb = node.verb("ADD", "web");
        verb.config = add(&node);
        verb.fail(11).await;
        node.until_ended();
        node.start().await;
        if place == "add-ready" {
            node.verb("DEL", "web").succeed().await;
        }
        until_nothing_is_left(&node).await;
        let links = ip_json(&pod, &["link", "show"]);
        assert_eq!(links.as_array().unwrap().len(), 1, "{place}: only lo: {links}");
        node.kill();
    }
    for place in DEL_PLACES {
        node.start().await;
        let mut verb = node.verb("ADD", "web");
        verb.config = add(&node);
        verb.succeed().await;
        node.kill();
        node.spawn(Some(place));
        node.until_serving().await;
        node.verb("DEL", "web").fail(11).await;
        node.until_ended();
        node.start().await;
        until_nothing_is_left(&node).await;
        let links = ip_json(&pod, &["link", "show"]);
        assert_eq!(links.as_array().unwrap().len(), 1, "{place}: only lo: {links}");
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_stack_may_be_behind_a_tap_device() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    let own = node.namespace();
    let is_tap = |node: &Node| {
        let links = ip_json(&node.namespace(), &["-details", "link", "show"]);
        let host = links.as_array().unwrap().iter().find(|link| link["ifname"] == "vrhost0");
        host.map(|link| link["linkinfo"]["info_kind"] == "tun")
    };
    // From one type to the other and back: the routes go with the interface, and come again.
    for (config, expected) in [("host_port_type = 'tap'", true), ("", false)] {
        node.write_config(config);
        node.start().await;
        node.until_in_step().await;
        let started = Instant::now();
        while is_tap(&node) != Some(expected) {
            assert!(started.elapsed() < LIMIT, "{config}\n{}", node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let port = engine.recorded.borrow().ports["host"].clone();
        assert_eq!(matches!(port.backend, Some(Backend::Tap(_))), expected);
        let started = Instant::now();
        while ip_json(&own, &["route", "show", "proto", "118"]) == json!([]) {
            assert!(started.elapsed() < LIMIT, "{config}: no routes\n{}", node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let link = ip_json(&own, &["link", "show", "dev", "vrhost0"]);
        assert_eq!(link[0]["address"], "0a:58:c0:00:02:01");
        node.kill();
    }
    let output = node.run_to_end(&["--cleanup"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(is_tap(&node), None);
}

/// A pod's volume for sockets, as deep in the node's folders as kubelet puts it.
fn kubelets_volume(node: &Node, uid: &str) -> PathBuf {
    let folder =
        node.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/shared-dir"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

const UID: &str = "6b2e0c5e-74fc-4c2b-a5a5-1d3fbb1a6f0d";
const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;\
                    K8S_POD_UID=6b2e0c5e-74fc-4c2b-a5a5-1d3fbb1a6f0d";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_attached_by_a_socket_checked_and_detached() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    node.write_config(&format!("kubelet_dir = '{}'", node.path("kubelet").display()));
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    node.start().await;
    node.until_in_step().await;
    let pod = node.add_pod("web");
    let volume = kubelets_volume(&node, UID);
    rustix::fs::chown(&volume, None, Some(rustix::fs::Gid::from_raw(1234))).unwrap();
    let info = node.path("devinfo/net1.json");
    let runtime = json!({ "CNIDeviceInfoFile": info });
    let add = || {
        let verb = node.verb("ADD", "web").args(ARGS).ifname("net1");
        verb.with("portType", json!("vhost-user")).with("runtimeConfig", runtime.clone())
    };
    let result = add().succeed().await;
    let socket = volume.join("id-web-net1");
    let interface = &result["interfaces"][0];
    assert_eq!(
        (&interface["name"], &interface["sandbox"]),
        (&json!("net1"), &json!(format!("/run/netns/{pod}")))
    );
    assert_eq!(interface["socketPath"], socket.to_str().unwrap());
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32", "though no interface has it");
    assert_eq!(result["routes"].as_array().unwrap().len(), 2);
    assert_eq!(ip_json(&pod, &["link", "show"]).as_array().unwrap().len(), 1, "only lo");
    let information: Value = serde_json::from_slice(&fs::read(&info).unwrap()).unwrap();
    assert_eq!(information["type"], "vhost-user");
    assert_eq!(information["vhost-user"]["path"], socket.to_str().unwrap());

    let port = engine.recorded.borrow().ports["demo/web/net1"].clone();
    let Some(Backend::VhostUser(backend)) = port.backend else { panic!("{port:?}") };
    assert!(backend.socket_path.len() <= 107, "{}", backend.socket_path);
    assert_eq!((backend.owner_gid, backend.file_mode), (1234, 0o660));
    assert_eq!(backend.owner_uid, fs::metadata(&volume).unwrap().uid());

    let check = || {
        let verb = node.verb("CHECK", "web").args(ARGS).ifname("net1");
        verb.with("prevResult", result.clone())
    };
    let message = check().fail(102).await;
    assert!(message.contains("no socket at"), "the engine has not made it: {message}");
    let listener = UnixListener::bind(&backend.socket_path).unwrap();
    assert!(socket.exists(), "both paths are one");
    check().succeed().await;
    fs::remove_file(&info).unwrap();
    check().fail(5).await;

    // A new control finds it whole, and the next one its links gone with a restart of the node.
    node.kill();
    let links = node.path("vhost-user");
    fs::remove_dir_all(&links).unwrap();
    node.start().await;
    node.until_in_step().await;
    assert_eq!(node.attachments().await[0].port_type, "vhost-user");
    let check = || node.verb("CHECK", "web").args(ARGS).ifname("net1");
    check().with("prevResult", result.clone()).succeed().await;

    drop(listener);
    for _ in 0..2 {
        node.verb("DEL", "web").args(ARGS).ifname("net1").succeed().await;
    }
    assert!(!socket.exists() && !info.exists());
    assert_eq!(fs::read_dir(&links).unwrap().count(), 0);
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_goes_where_the_network_or_the_pods_manifest_says_or_nowhere() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("web");
    let vhost = |node: &Node, key: &str, value: Value| {
        let verb = node.verb("ADD", "web").with("portType", json!("vhost-user"));
        verb.with(key, value).config
    };
    let config = vhost(&node, "name", json!("vrouter"));
    let message = add(&node, config.clone()).fail(7).await;
    assert!(message.contains("sharedDir: missing"), "{message}");
    let message = add(&node, vhost(&node, "sharedDir", json!("/nowhere/at/all"))).fail(7).await;
    assert!(message.contains("/nowhere/at/all is no folder"), "{message}");
    assert_nothing_is_left(&node, &engine).await;

    let [shared, mounted] = ["shared", "mounted"].map(|name| node.path(name));
    for folder in [&shared, &mounted] {
        fs::create_dir(folder).unwrap();
    }
    add(&node, vhost(&node, "sharedDir", json!(shared))).succeed().await;
    let is_in = |folder: &Path| Path::new(&socket_backend(&engine).socket_path).starts_with(folder);
    assert!(is_in(&shared));
    node.verb("DEL", "web").succeed().await;
    node.write_manifest(
        "web.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: demo, name: web}}\n\
             spec: {{nodeName: node-a, containers: [], volumes: [{{name: shared-dir, \
             hostPath: {{path: '{}'}}}}]}}\n",
            mounted.display()
        ),
    );
    node.until_status("the pod is known", |status| status.pods == 1).await;
    add(&node, config).succeed().await;
    assert!(is_in(&mounted));
    // The container ends without a DEL, and the pod's volume with it.
    node.kill();
    delete_namespace(&format!("{}web", node.namespace().trim_end_matches('n')));
    fs::remove_dir_all(&mounted).unwrap();
    node.start().await;
    node.until_in_step().await;
    assert_nothing_is_left(&node, &engine).await;
}
