//! Tests of the typed cluster.

use proptest::prelude::*;

use super::*;
use crate::{cluster::flannel::KERNEL_VXLAN_PORT, manifests::Folder};

fn parse(documents: &[&str]) -> (Cluster, Vec<Refusal>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), documents.join("\n---\n")).unwrap();
    let mut folder = Folder::new(dir.path());
    let problems = folder.reload();
    assert!(problems.is_empty(), "{problems:?}");
    folder.cluster()
}

fn node(name: &str, ranges: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{ranges}]}}\n\
         status: {{addresses: [{{type: InternalIP, address: '{address}'}}]}}"
    )
}

fn pod(name: &str, node: &str, addresses: &[&str]) -> String {
    let listed: Vec<_> = addresses.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: x}}}}\n\
         spec: {{nodeName: {node}}}\nstatus: {{podIPs: [{}]}}",
        listed.join(", ")
    )
}

fn names(cluster: &Cluster) -> Vec<&str> {
    cluster.nodes.keys().map(NodeName::as_str).collect()
}

fn named<'a>(cluster: &'a Cluster, name: &str) -> &'a Pod {
    &cluster.pods[&PodName::new("default", name)]
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nodes_and_pods_are_read_with_both_families() {
    let (cluster, refusals) = parse(&[
        &node("a", "10.244.1.0/24, 'fd00:1::/64'", "192.0.2.1"),
        &pod("web", "a", &["10.244.1.5", "fd00:1::5"]),
    ]);
    assert!(refusals.is_empty(), "{refusals:?}");
    let pod = &cluster.pods[&PodName::new("default", "web")];
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(pod.labels["app"], "x");
    let node = &cluster.nodes[&NodeName::new("a")];
    assert_eq!(node.vtep().unwrap().to_string(), "192.0.2.1");
    assert_eq!(node.ranges.len(), 2);
}

#[test]
fn of_two_nodes_with_one_range_the_first_by_name_stays() {
    let (cluster, refusals) = parse(&[
        &node("b", "10.244.1.0/24", "192.0.2.2"),
        &node("a", "10.244.0.0/16", "192.0.2.1"),
        &node("c", "10.245.0.0/24", "192.0.2.3"),
    ]);
    assert_eq!(names(&cluster), ["a", "c"]);
    let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
    let text = refusal.to_string();
    assert!(text.contains("Node b") && text.contains("10.244.0.0/16 of node a"), "{text}");
}

#[test]
fn of_two_nodes_with_one_range_the_older_stays() {
    let old = node("b", "10.244.1.0/24", "192.0.2.2")
        .replace("{name: b}", "{name: b, creationTimestamp: '2020-01-01T00:00:00Z'}");
    let young = node("a", "10.244.1.0/24", "192.0.2.1")
        .replace("{name: a}", "{name: a, creationTimestamp: '2021-01-01T00:00:00Z'}");
    let (cluster, _) = parse(&[&young, &old]);
    assert_eq!(names(&cluster), ["b"]);
}

#[test]
fn nodes_that_share_an_address_or_claim_a_range_for_it_are_refused() {
    let (cluster, refusals) = parse(&[
        &node("a", "10.244.1.0/24", "192.0.2.1"),
        &node("b", "10.244.2.0/24", "192.0.2.1"),
        &node("c", "10.244.3.0/24", "10.244.1.9"),
        &node("d", "192.0.2.0/24", "198.51.100.1"),
        &node("e", "10.244.5.0/24", "10.244.5.1"),
    ]);
    assert_eq!(names(&cluster), ["a"]);
    assert_eq!(refusals.len(), 4, "{refusals:?}");
}

#[test]
fn of_two_pods_with_one_address_the_first_keeps_it_and_policies_mean_neither_by_it() {
    let (cluster, refusals) = parse(&[
        &node("a", "10.244.1.0/24, 'fd00:1::/64'", "192.0.2.1"),
        &pod("y", "a", &["10.244.1.5", "fd00:1::6"]),
        &pod("x", "a", &["10.244.1.5", "fd00:1::5"]),
    ]);
    let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
    let text = refusal.to_string();
    assert!(text.contains("Pod default/y: status.podIPs: 10.244.1.5 belongs to pod default/x"));
    assert!(text.contains("the rest of the pod is in force") && !text.contains("left out"));
    let (x, y) = (named(&cluster, "x"), named(&cluster, "y"));
    assert_eq!(x.addresses, addresses(&["10.244.1.5", "fd00:1::5"]), "IPAM keeps it for the first");
    assert_eq!(x.peer_addresses().collect::<Vec<_>>(), addresses(&["fd00:1::5"]));
    assert_eq!(y.addresses, addresses(&["fd00:1::6"]));
    assert_eq!(y.labels["app"], "x", "what isolates it stays in force");
}

#[test]
fn addresses_that_no_pod_of_the_node_can_have_are_refused_and_no_others() {
    for address in ["10.244.2.5", "10.244.1.0", "10.244.1.1", "10.244.1.255", "fd00::5"] {
        let (cluster, refusals) = parse(&[
            &node("a", "10.244.1.0/24", "192.0.2.1"),
            &node("b", "10.244.2.0/24", "192.0.2.2"),
            &pod("old", "b", &["10.244.2.5"]),
            &pod("x", "a", &[address]),
        ]);
        assert!(named(&cluster, "x").addresses.is_empty(), "{address}");
        assert_eq!(named(&cluster, "x").node, Some(NodeName::new("a")));
        assert_eq!(named(&cluster, "old").peer_addresses().count(), 1, "{address}");
        let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
        assert!(refusal.to_string().contains("is not an address for pods of node a"), "{refusal}");
    }
}

#[test]
fn a_pod_is_in_force_without_what_is_no_address_and_without_two_of_one_family() {
    let (cluster, refusals) = parse(&[
        &node("a", "10.244.1.0/24, 'fd00:1::/64'", "192.0.2.1"),
        &pod("bad", "a", &["10.244.1", "fd00:1::5"]),
        &pod("two", "a", &["10.244.1.6", "10.244.1.7", "fd00:1::6"]),
        &pod("young", "a", &["10.244.1.7"]),
    ]);
    assert_eq!(named(&cluster, "bad").addresses, addresses(&["fd00:1::5"]));
    assert_eq!(named(&cluster, "two").addresses, addresses(&["fd00:1::6"]));
    assert!(named(&cluster, "young").addresses.is_empty(), "it may be the other's");
    let texts: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].contains("status.podIPs[0].ip: `10.244.1` is not an IP address"), "{texts:?}");
    assert!(texts[1].contains("status.podIPs: there are two of one family"), "{texts:?}");
}

#[test]
fn of_two_objects_with_one_name_the_older_stays_whatever_their_order() {
    let old = pod("x", "a", &["10.244.1.5"])
        .replace("{name: x,", "{name: x, creationTimestamp: '2020-01-01T00:00:00Z',");
    let young = pod("x", "a", &["10.244.1.6"])
        .replace("{name: x,", "{name: x, creationTimestamp: '2021-01-01T00:00:00Z',");
    for documents in [[&old, &young], [&young, &old]] {
        let (cluster, refusals) = parse(&documents.map(String::as_str));
        assert_eq!(named(&cluster, "x").addresses, addresses(&["10.244.1.5"]));
        assert!(matches!(refusals[0].conflict, Conflict::Duplicate { .. }), "{refusals:?}");
    }
}

#[test]
fn an_empty_namespace_is_default_for_pods_as_for_policies() {
    let pod = pod("x", "a", &[]).replace("{name: x,", "{name: x, namespace: '',");
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: p, namespace: ''}\nspec: {podSelector: {}}";
    let (cluster, refusals) = parse(&[&pod, policy]);
    assert!(refusals.is_empty(), "{refusals:?}");
    assert_eq!(named(&cluster, "x").name.namespace, "default");
    assert_eq!(cluster.policies.keys().next().unwrap().namespace, "default");
}

#[test]
fn fields_that_are_no_addresses_or_ranges_are_named() {
    let (_, refusals) = parse(&[
        &node("a", "10.244.1.7/24", "192.0.2.1"),
        &node("b", "10.244.2.0/24", "nowhere"),
        &node("c", "10.244.3.0/24, 10.245.3.0/24", "192.0.2.3"),
    ]);
    let texts: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("spec.podCIDRs[0]") && texts[0].contains("write 10.244.1.0/24"));
    assert!(texts[1].contains("status.addresses[0]") && texts[1].contains("`nowhere`"));
    assert!(texts[2].contains("two of one family"));
}

#[test]
fn pods_on_the_host_network_and_pods_that_ended_hold_no_address() {
    let host = pod("h", "a", &["192.0.2.1"]).replace("{nodeName: a}", "{hostNetwork: true}");
    let over = pod("o", "a", &["10.244.1.5"]).replace("{podIPs", "{phase: Succeeded, podIPs");
    let (cluster, refusals) = parse(&[
        &node("a", "10.244.1.0/24", "192.0.2.1"),
        &host,
        &over,
        &pod("z", "a", &["10.244.1.5"]),
    ]);
    assert!(refusals.is_empty(), "{refusals:?}");
    assert!(cluster.pods[&PodName::new("default", "h")].host_network);
    assert!(cluster.pods[&PodName::new("default", "o")].addresses.is_empty());
}

fn flannel(data: &str) -> String {
    node("k", "10.244.9.0/24", "192.0.2.9").replace(
        "{name: k}",
        &format!(
            "\n  name: k\n  annotations:\n    flannel.alpha.coreos.com/backend-type: vxlan\n    \
             flannel.alpha.coreos.com/backend-data: '{data}'\n    \
             flannel.alpha.coreos.com/backend-v6-data: 'null'"
        ),
    )
}

#[test]
fn a_node_annotated_as_flannel_does_it_is_a_kernel_peer() {
    let (cluster, refusals) = parse(&[&flannel(r#"{"VNI":7,"VtepMAC":"c6:03:10:20:30:40"}"#)]);
    assert!(refusals.is_empty(), "{refusals:?}");
    let peer = cluster.nodes[&NodeName::new("k")].kernel_peer.clone().unwrap();
    let vtep = peer.v4.unwrap();
    assert_eq!((vtep.vni, vtep.udp_port), (7, KERNEL_VXLAN_PORT));
    assert_eq!(vtep.mac.to_string(), "c6:03:10:20:30:40");
    assert_eq!(vtep.address.to_string(), "192.0.2.9");
    assert_eq!(peer.v6, None);
}

#[test]
fn an_annotation_that_cannot_be_understood_refuses_the_node() {
    for data in [
        "{}",
        "x",
        r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#,
        r#"{"VNI":16777216,"VtepMAC":"c6:03:10:20:30:40"}"#,
        "",
    ] {
        let (cluster, refusals) = parse(&[&flannel(data)]);
        assert!(cluster.nodes.is_empty(), "{data}");
        assert!(refusals[0].to_string().contains("flannel.alpha.coreos.com/"), "{}", refusals[0]);
    }
}

proptest! {
    /// Whatever the order of the documents, the same objects are in force.
    #[test]
    fn the_order_of_documents_does_not_matter(order in Just((0..6_usize).collect::<Vec<_>>())
        .prop_shuffle())
    {
        let documents = [
            node("a", "10.244.1.0/24", "192.0.2.1"),
            node("b", "10.244.1.0/24", "192.0.2.2"),
            node("c", "10.244.2.0/24", "192.0.2.2"),
            pod("x", "a", &["10.244.1.5"]),
            pod("y", "a", &["10.244.1.5"]),
            pod("z", "c", &["10.244.2.5"]),
        ];
        let shuffled: Vec<&str> = order.iter().map(|index| &*documents[*index]).collect();
        let sorted: Vec<&str> = documents.iter().map(|document| &**document).collect();
        prop_assert_eq!(parse(&shuffled).0, parse(&sorted).0);
    }
}

#[test]
fn a_policy_with_a_bad_rule_is_in_force_without_it() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: web, namespace: shop}\n\
                  spec: {ingress: [{ports: [{port: 90, endPort: 80}]}, {ports: [{port: 443}]}]}";
    let (cluster, refusals) = parse(&[policy, policy]);
    assert_eq!(cluster.policies.len(), 1);
    let [bad_rule, twice] = refusals.as_slice() else { panic!("{refusals:?}") };
    let expected = "NetworkPolicy shop/web: spec.ingress[0].ports[0].endPort: 80 is below port, \
                    which is 90; swap the two; until it is mended this rule allows nothing, and \
                    the rest of the policy holds";
    assert!(bad_rule.to_string().ends_with(expected), "{bad_rule}");
    assert!(matches!(twice.conflict, Conflict::Duplicate { .. }), "{twice}");
}
