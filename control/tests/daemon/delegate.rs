//! An IPAM plugin of somebody else's in our place: what it is asked, and that it always hears of an
//! address's end.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use control::fault::{ADD_DELEGATED, ADD_PLACES, DEL_PLACES};
use serde_json::json;

use crate::{
    cni::{assert_nothing_is_left, start},
    engine::FixtureEngine,
    node::{Node, Verb, delete_namespace, need_namespaces},
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// An IPAM plugin that notes what it is asked, keeps its leases as files, and gives one address.
const IPAM_PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$CNI_PATH/asked"
lease=$CNI_PATH/leases/$CNI_CONTAINERID-$CNI_IFNAME
case "$CNI_COMMAND" in
ADD) [ -e "$CNI_PATH/broken" ] && { echo '{"code": 11, "msg": "pool is locked"}'; exit 1; }
     : > "$lease"
     [ -e "$CNI_PATH/slow" ] && exec sleep 600
     echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.200/24", "gateway": "10.244.1.1"}]}' ;;
DEL) [ -e "$CNI_PATH/keeps-$CNI_CONTAINERID" ] && { echo '{"code": 11, "msg": "pool is locked"}'; exit 1; }
     rm -f "$lease" ;;
STATUS|GC) echo '{"code": 4, "msg": "unknown CNI_COMMAND"}'; exit 1 ;;
esac
"#;

/// The plugin in a folder of its own.
struct Ipam(PathBuf);

impl Ipam {
    fn install(node: &Node) -> Self {
        let folder = node.path("plugins");
        fs::create_dir_all(folder.join("leases")).unwrap();
        fs::write(folder.join("test-ipam"), IPAM_PLUGIN).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.join("test-ipam"), mode).unwrap();
        Self(folder)
    }

    /// A verb whose configuration names the plugin `kind`.
    fn verb_with<'a>(&self, node: &'a Node, verb: &str, kind: &str) -> Verb<'a> {
        let path = self.0.display().to_string();
        node.verb(verb, "web").path(&path).with("ipam", json!({"type": kind}))
    }

    fn verb<'a>(&self, node: &'a Node, verb: &str) -> Verb<'a> {
        self.verb_with(node, verb, "test-ipam")
    }

    fn set(&self, name: &str, is_set: bool) {
        let file = self.0.join(name);
        if is_set { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }

    fn leases(&self) -> usize {
        fs::read_dir(self.0.join("leases")).unwrap().count()
    }

    /// The verbs it was asked, in their order.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.0.join("asked")).unwrap_or_default();
        asked.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipam_plugin_is_asked_and_told() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let ipam = Ipam::install(&node);
    node.add_pod("web");
    ipam.verb_with(&node, "ADD", "absent").fail(4).await;
    // A plugin that is not there holds up no pod's end.
    ipam.verb_with(&node, "DEL", "absent").succeed().await;
    ipam.set("broken", true);
    let message = ipam.verb(&node, "ADD").fail(11).await;
    assert!(message.contains("pool is locked"), "{message}");
    ipam.set("broken", false);
    let result = ipam.verb(&node, "ADD").succeed().await;
    assert_eq!(result["ips"][0]["address"], "10.244.1.200/32");
    assert_eq!(engine.recorded.borrow().ports["demo/web"].addresses[0], [10, 244, 1, 200]);
    ipam.verb(&node, "CHECK").with("prevResult", result).succeed().await;
    ipam.verb(&node, "STATUS").succeed().await;
    ipam.verb(&node, "DEL").succeed().await;
    // Without a record, the plugin is told all the same.
    ipam.verb(&node, "DEL").succeed().await;
    assert_nothing_is_left(&node, &engine).await;
    assert_eq!(ipam.asked(), ["ADD", "DEL", "ADD", "CHECK", "STATUS", "DEL", "DEL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipam_plugin_is_told_without_a_namespace() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let ipam = Ipam::install(&node);
    let pod = node.add_pod("web");
    ipam.verb(&node, "ADD").succeed().await;
    delete_namespace(&pod);
    ipam.verb(&node, "DEL").netns("").succeed().await;
    assert_eq!(ipam.leases(), 0);
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_goes_on_after_an_error_and_names_it() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let ipam = Ipam::install(&node);
    node.add_pod("web");
    node.add_pod("zoo");
    ipam.verb(&node, "ADD").succeed().await;
    node.verb("ADD", "zoo").succeed().await;
    ipam.set("keeps-id-web", true);
    let gc = || ipam.verb(&node, "GC").with("cni.dev/attachments", json!([]));
    let message = gc().fail(103).await;
    assert!(message.contains("id-web/eth0") && message.contains("pool is locked"), "{message}");
    let left = node.attachments().await;
    assert_eq!(left.iter().map(|found| &*found.container_id).collect::<Vec<_>>(), ["id-web"]);
    ipam.verb(&node, "DEL").fail(11).await;
    ipam.set("keeps-id-web", false);
    gc().succeed().await;
    assert_eq!(ipam.leases(), 0);
    assert_nothing_is_left(&node, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_ipam_plugin_is_stopped_and_told_when_nobody_waits_any_more() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let ipam = Ipam::install(&node);
    node.add_pod("web");
    ipam.set("slow", true);
    let mut plugin = ipam.verb(&node, "ADD").spawn().await;
    node.until_attachments("the lease", |_| ipam.leases() == 1).await;
    plugin.kill().await.unwrap();
    node.until_attachments("it is undone", <[_]>::is_empty).await;
    assert_eq!((ipam.leases(), ipam.asked()), (0, ["ADD", "DEL"].map(str::to_owned).to_vec()));
    assert_nothing_is_left(&node, &engine).await;
    ipam.set("slow", false);
    ipam.verb(&node, "ADD").succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_between_any_two_steps_leaks_no_address_of_an_ipam_plugin() {
    need_namespaces!();
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: the places to die at are compiled in debug builds only");
        return;
    }
    let mut node = Node::new(RANGES);
    let engine = FixtureEngine::start(&node.engine_socket(), 1);
    let ipam = Ipam::install(&node);
    node.add_pod("web");
    for place in [ADD_DELEGATED].iter().chain(&ADD_PLACES).chain(&DEL_PLACES) {
        node.spawn(Some(place));
        node.until_serving().await;
        if DEL_PLACES.contains(place) {
            ipam.verb(&node, "ADD").succeed().await;
            ipam.verb(&node, "DEL").fail(11).await;
        } else {
            ipam.verb(&node, "ADD").fail(11).await;
        }
        node.until_ended();
        let is_leased = !["add-recorded", "del-given-back", "del-forgotten"].contains(place);
        assert_eq!(ipam.leases(), usize::from(is_leased), "{place}: when it died");
        node.start().await;
        if *place == "add-ready" {
            // Whole, but the runtime was told that it failed.
            ipam.verb(&node, "DEL").succeed().await;
        }
        node.until_in_step().await;
        assert_nothing_is_left(&node, &engine).await;
        assert_eq!(ipam.leases(), 0, "{place}: after the restart");
        ipam.verb(&node, "ADD").succeed().await;
        assert_eq!(ipam.leases(), 1, "{place}: and again");
        ipam.verb(&node, "DEL").succeed().await;
        node.kill();
    }
}
