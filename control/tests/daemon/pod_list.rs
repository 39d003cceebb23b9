//! The cluster's pods as control tells them, for those who ask by name.

use control_api::{connect::connect_control, node};

use crate::node::{Node, need_namespaces};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: far}
spec: {nodeName: node-b, containers: []}
status: {podIPs: [{ip: 10.244.2.10}, {ip: "fd00::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: agent}
spec: {nodeName: node-b, hostNetwork: true, containers: []}
status: {podIP: 192.0.2.2}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: late}
spec: {containers: []}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn control_names_the_pods_of_every_node_with_their_addresses() {
    need_namespaces!();
    let mut node = Node::new("10.244.1.0/24");
    node.write_manifest("pods.yaml", PODS);
    node.start().await;
    node.until_status("the pods are known", |status| status.pods == 3).await;
    let mut control = connect_control(&node.path("control.sock")).await.unwrap();
    let mut stream = control.list_pods(node::ListPodsRequest {}).await.unwrap().into_inner();
    let mut pods = Vec::new();
    while let Some(pod) = stream.message().await.unwrap() {
        pods.push(pod);
    }
    let pod = |name: &str, node: &str, addresses: &[&[u8]], host_network| node::Pod {
        namespace: "shop".into(),
        name: name.into(),
        node: node.into(),
        addresses: addresses.iter().map(|octets| octets.to_vec()).collect(),
        host_network,
    };
    let v6 = [&[0xfd][..], &[0; 14], &[0x10]].concat();
    let expected = [
        pod("agent", "node-b", &[&[192, 0, 2, 2]], true),
        pod("far", "node-b", &[&[10, 244, 2, 10], &v6], false),
        pod("late", "", &[], false),
    ];
    assert_eq!(pods, expected);
}
