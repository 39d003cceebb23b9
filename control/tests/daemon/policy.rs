//! Policy on its way to the engine: what is sent, together with what, and what the operator hears.

use control_api::engine::{ObjectBatch, PolicySet, Port, object::Kind, object_key};
use serde_json::json;

use crate::{cni::start, engine::FixtureEngine, node::need_namespaces};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// Whoever is in `demo` may be reached by its pods with `app: client`, and by nobody else.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: demo, name: clients}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
";

fn client(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: demo, name: {name}, labels: {{app: \
         client}}}}\nspec: {{nodeName: node-a, containers: []}}\n"
    )
}

fn ports(batch: &ObjectBatch) -> impl Iterator<Item = &Port> {
    batch.upserts.iter().filter_map(|object| match &object.kind {
        Some(Kind::Port(port)) => Some(port),
        _ => None,
    })
}

fn policy_sets(batch: &ObjectBatch) -> impl Iterator<Item = &PolicySet> {
    batch.upserts.iter().filter_map(|object| match &object.kind {
        Some(Kind::PolicySet(set)) => Some(set),
        _ => None,
    })
}

/// The IPv4 addresses of all address sets of a batch, one after the other.
fn peers(batch: &ObjectBatch) -> Vec<Vec<u8>> {
    let sets = batch.upserts.iter().filter_map(|object| match &object.kind {
        Some(Kind::AddressSet(set)) => Some(set.ipv4.clone()),
        _ => None,
    });
    sets.collect()
}

/// The engine's port of a pod as it is now.
fn port(engine: &FixtureEngine, name: &str) -> Port {
    engine.recorded.borrow().ports[name].clone()
}

async fn until_isolated(engine: &FixtureEngine, name: &str, is_isolated: bool) {
    let condition = |port: &Port| (port.ingress_policy != 0) == is_isolated;
    engine.until("the port's policy", |recorded| condition(&recorded.ports[name])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_port_comes_in_one_batch_with_the_policy_that_isolates_it() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.write_manifest("policy.yaml", POLICY);
    node.write_manifest("client.yaml", &client("one"));
    node.until_status("the policy is read", |status| {
        status.policy.as_ref().is_some_and(|policy| policy.policies == 1) && status.pods == 1
    })
    .await;
    for pod in ["web", "one"] {
        node.add_pod(pod);
        node.verb("ADD", pod).succeed().await;
    }
    let recorded = engine.recorded.borrow().clone();
    let find = |name: &str| {
        recorded.batches.iter().find(|(_, batch)| ports(batch).any(|port| port.name == name))
    };
    // No label is known of the first one: what selects every pod isolates it, from its first packet
    // on. Nobody may reach it yet.
    let (_, batch) = find("demo/web").unwrap();
    let web = ports(batch).find(|port| port.name == "demo/web").unwrap();
    let [set] = policy_sets(batch).collect::<Vec<_>>()[..] else { panic!("{batch:?}") };
    assert_eq!((web.ingress_policy, web.egress_policy), (set.id, 0));
    assert_eq!(set.policies, ["demo/clients"]);
    assert_eq!(peers(batch), [Vec::<u8>::new()]);
    // The second one shares the set, and is let in by the address that it has just been given.
    let (_, batch) = find("demo/one").unwrap();
    assert_eq!(port(&engine, "demo/one").ingress_policy, set.id);
    assert_eq!(peers(batch), [port(&engine, "demo/one").addresses[0].clone()]);
    let status = node.status().await.policy.unwrap();
    assert_eq!((status.ingress_isolated_ports, status.egress_isolated_ports), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_engine_and_what_is_not_used_is_taken_back() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.add_pod("one");
    node.verb("ADD", "one").succeed().await;
    until_isolated(&engine, "demo/one", false).await;
    node.write_manifest("policy.yaml", POLICY);
    until_isolated(&engine, "demo/one", true).await;
    node.write_manifest("client.yaml", &client("one"));
    let own = port(&engine, "demo/one").addresses[0].clone();
    let is_let_in = |batch: &ObjectBatch| peers(batch).contains(&own);
    engine.until("labels", |recorded| is_let_in(&recorded.batches.last().unwrap().1)).await;
    std::fs::remove_file(node.path("manifests").join("policy.yaml")).unwrap();
    until_isolated(&engine, "demo/one", false).await;
    let recorded = engine.recorded.borrow().clone();
    let (_, batch) = recorded.batches.last().unwrap();
    let kinds: Vec<_> = batch.deletes.iter().filter_map(|key| key.kind.clone()).collect();
    assert!(
        matches!(kinds[..], [object_key::Kind::AddressSet(_), object_key::Kind::PolicySet(_)]),
        "{kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_engine_and_a_restarted_control_end_with_the_same_policy() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.write_manifest("policy.yaml", &format!("{POLICY}---\n{}", client("one")));
    node.until_status("pods", |status| status.pods == 1).await;
    node.add_pod("one");
    node.verb("ADD", "one").succeed().await;
    let before = port(&engine, "demo/one");
    assert_ne!(before.ingress_policy, 0);

    node.kill();
    engine.set(|recorded| recorded.batches.clear());
    node.start().await;
    node.until_in_step().await;
    let recorded = engine.recorded.borrow().clone();
    assert!(recorded.batches[0].0.full_sync);
    for (_, batch) in &recorded.batches {
        // Never for a moment without its policy, and by the same numbers as before.
        assert!(ports(batch).all(|port| port.name != before.name || *port == before));
    }
    assert_eq!(policy_sets(&recorded.batches[0].1).count(), 1);

    engine.stop().await;
    let engine = FixtureEngine::start(&node.engine_socket(), 2);
    let recorded = engine.until("a full sync", |recorded| !recorded.batches.is_empty()).await;
    let (header, batch) = &recorded.batches[0];
    assert!(header.full_sync);
    assert_eq!(ports(batch).find(|port| port.name == before.name), Some(&before));
    assert_eq!((policy_sets(batch).count(), peers(batch)), (1, vec![before.addresses[0].clone()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_used_again_has_none_of_the_old_pods_rights() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    node.write_manifest("policy.yaml", &format!("{POLICY}---\n{}", client("old")));
    node.until_status("pods", |status| status.pods == 1).await;
    for pod in ["web", "old"] {
        node.add_pod(pod);
        node.verb("ADD", pod).succeed().await;
    }
    let addresses = port(&engine, "demo/old").addresses;
    node.verb("DEL", "old").succeed().await;
    node.add_pod("new");
    let ips = ["10.244.1.3", "fd00:10:244:1::3"];
    node.verb("ADD", "new").with("runtimeConfig", json!({"ips": ips})).succeed().await;
    assert_eq!(port(&engine, "demo/new").addresses, addresses);
    let recorded = engine.recorded.borrow().clone();
    let with_new = |batch: &ObjectBatch| ports(batch).any(|port| port.name == "demo/new");
    let came = recorded.batches.iter().position(|(_, batch)| with_new(batch)).unwrap();
    let left = recorded.batches[..came].iter().rev().find_map(|(_, batch)| peers(batch).pop());
    assert_eq!(left, Some(Vec::new()), "the old pod's address was taken out before");
    assert!(recorded.batches[came..].iter().all(|(_, batch)| peers(batch).concat().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_part_is_named_by_object_and_field_and_opens_nothing() {
    need_namespaces!();
    let (mut node, engine) = start(RANGES).await;
    let bad = POLICY
        .replace("{app: client}}}]}]", "{app: client}}}], ports: [{port: 90, endPort: 80}]}]");
    let other = POLICY.replace("clients", "dns").replace(
        "ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]",
        "policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}, {to: [{ipBlock: \
         {cidr: 10.0.0.0/33}}]}]",
    );
    node.write_manifest("policy.yaml", &format!("{bad}---\n{other}"));
    let status = node
        .until_status("refusals", |status| {
            status.policy.as_ref().is_some_and(|policy| policy.refused.len() == 2)
        })
        .await;
    let policy = status.policy.unwrap();
    assert_eq!(policy.policies, 2, "both are in force");
    let parts = policy.refused.iter().map(|part| (&*part.policy, &*part.field));
    assert_eq!(
        parts.collect::<Vec<_>>(),
        [
            ("demo/clients", "spec.ingress[0].ports[0].endPort"),
            ("demo/dns", "spec.egress[1].to[0].ipBlock.cidr"),
        ]
    );
    assert!(policy.refused.iter().all(|part| part.consequence_word == "rule_allows_nothing"));
    for part in &policy.refused {
        let named =
            |problem: &&String| problem.contains(&part.policy) && problem.contains(&part.field);
        assert!(status.problems.iter().any(|problem| named(&problem)), "{:#?}", status.problems);
    }
    node.add_pod("web");
    node.verb("ADD", "web").succeed().await;
    let web = port(&engine, "demo/web");
    let recorded = engine.recorded.borrow().clone();
    let sets: Vec<_> = recorded.batches.iter().flat_map(|(_, batch)| policy_sets(batch)).collect();
    let set = |id: u64| *sets.iter().find(|set| set.id == id).unwrap();
    assert_eq!(set(web.ingress_policy).rules, [], "nobody is let in by the broken rule");
    let egress = &set(web.egress_policy).rules;
    assert_eq!(egress.len(), 1, "the rest of the policy holds: {egress:?}");
    assert_eq!(egress[0].path, "spec.egress[0]");
}
