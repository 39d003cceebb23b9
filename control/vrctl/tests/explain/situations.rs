//! Situations from the API's text, each with questions and verdicts: a table for each way to ask.

use serde_json::{Value, json};

use crate::{
    packets::{First, send},
    scene::{Scene, end, namespace, node, pod, policy},
};

/// A cluster and what holds in it.
pub(crate) struct Situation {
    pub(crate) name: &'static str,
    objects: Vec<Value>,
    pub(crate) asks: &'static [Ask],
}

/// From, to, protocol and port (with ` v6` for the other family), and who denies: `-` for nobody,
/// `egress`, `ingress` or `both`.
pub(crate) type Ask = (&'static str, &'static str, &'static str, &'static str);

impl Situation {
    pub(crate) fn scene(&self) -> Scene {
        Scene::new(&self.objects)
    }
}

/// What an ask says, in the words of a probe.
pub(crate) fn probe((from, to, traffic, _): &Ask) -> Value {
    let mut words = traffic.split(' ').peekable();
    let protocol = words.next().unwrap();
    let mut probe = json!({"from": end(from), "to": end(to), "protocol": protocol});
    for word in words {
        match word {
            "v6" => probe["family"] = 6.into(),
            port => probe["port"] = port.parse::<u16>().unwrap().into(),
        }
    }
    probe
}

/// Two nodes; `shop` (team a) has a server, a client and a neighbour, `yard` (team b) a client, and
/// `bare` has no manifest.
fn cluster(more: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let ports = json!([{"name": "main", "ports": [
        {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "sig", "containerPort": 2905, "protocol": "SCTP"}]}]);
    let mut web = pod("shop/web", 1, 10, &json!({"app": "web", "tier": "front"}));
    web["spec"]["containers"] = ports;
    let mut old = pod("shop/old", 2, 10, &json!({"app": "web", "tier": "back"}));
    old["spec"]["containers"] =
        json!([{"name": "main", "ports": [{"name": "http", "containerPort": 80}]}]);
    let objects = vec![
        node(1),
        node(2),
        namespace("shop", &json!({"team": "a"})),
        namespace("yard", &json!({"team": "b", "env": "test"})),
        web,
        old,
        pod("shop/client", 1, 11, &json!({"app": "client"})),
        pod("yard/client", 2, 11, &json!({"app": "client"})),
        pod("bare/client", 1, 12, &json!({})),
    ];
    objects.into_iter().chain(more).collect()
}

/// A policy for the servers of `shop` with these rules for ingress.
fn ingress(rules: &Value) -> Value {
    policy("shop/in", &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}))
}

/// A policy for all pods of `shop` with these rules for egress.
fn egress(rules: &Value) -> Value {
    policy("shop/out", &json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": rules}))
}

fn from(peer: &Value) -> Value {
    ingress(&json!([{"from": [peer]}]))
}

pub(crate) fn all() -> Vec<Situation> {
    let mut all = defaults();
    all.extend(peers());
    all.extend(operators());
    all.extend(ports());
    all.extend(blocks());
    all.extend(pods());
    all
}

fn defaults() -> Vec<Situation> {
    vec![
        Situation {
            name: "without a policy everything is allowed",
            objects: cluster([]),
            asks: &[
                ("bare/client", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "SCTP 80 v6", "-"),
                ("shop/web", "203.0.113.9", "UDP 53", "-"),
                ("203.0.113.9", "shop/web", "UDP 53", "-"),
                ("shop/web", "yard/client", "ICMP", "-"),
            ],
        },
        Situation {
            name: "no policyTypes and no rule isolates for ingress alone",
            objects: cluster([policy("shop/x", &json!({"podSelector": {}}))]),
            asks: &[
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("shop/client", "shop/web", "TCP 80 v6", "ingress"),
                ("shop/web", "yard/client", "TCP 80", "-"),
                ("shop/web", "shop/web", "TCP 80", "-"),
                ("192.0.2.1", "shop/web", "TCP 80", "-"),
                ("192.0.2.2", "shop/web", "TCP 80", "ingress"),
                ("2001:db8::2", "shop/old", "TCP 80", "-"),
                ("2001:db8::1", "shop/old", "TCP 80", "ingress"),
                ("yard/client", "shop/web", "ICMP", "ingress"),
            ],
        },
        Situation {
            name: "no policyTypes and a rule for egress isolates in both directions",
            objects: cluster([policy("shop/x", &json!({"podSelector": {}, "egress": [{}]}))]),
            asks: &[
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("shop/web", "yard/client", "TCP 80", "-"),
                ("shop/web", "yard/client", "ICMP v6", "-"),
            ],
        },
        Situation {
            name: "policyTypes with Egress and no rule denies all egress",
            objects: cluster([egress(&Value::Null)]),
            asks: &[
                ("shop/web", "yard/client", "TCP 80", "egress"),
                ("shop/web", "203.0.113.9", "UDP 53", "egress"),
                ("yard/client", "shop/web", "TCP 80", "-"),
                ("shop/web", "shop/web", "UDP 53 v6", "-"),
            ],
        },
        Situation {
            name: "an empty rule allows everything, and policies add up",
            objects: cluster([
                policy(
                    "shop/closed",
                    &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
                ),
                policy(
                    "shop/open",
                    &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]}),
                ),
            ]),
            asks: &[
                ("yard/client", "shop/web", "SCTP 9", "-"),
                ("203.0.113.9", "shop/web", "ICMP", "-"),
                ("yard/client", "shop/client", "TCP 80", "ingress"),
                ("shop/client", "shop/web", "TCP 80", "egress"),
                ("shop/web", "shop/client", "TCP 80", "both"),
            ],
        },
    ]
}

fn peers() -> Vec<Situation> {
    vec![
        Situation {
            name: "podSelector alone is the policy's own namespace",
            objects: cluster([from(&json!({"podSelector": {"matchLabels": {"app": "client"}}}))]),
            asks: &[
                ("shop/client", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("shop/old", "shop/web", "TCP 80 v6", "ingress"),
            ],
        },
        Situation {
            name: "namespaceSelector alone is all pods of those namespaces",
            objects: cluster([from(&json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}))]),
            asks: &[
                ("yard/client", "shop/web", "TCP 80", "-"),
                ("shop/client", "shop/web", "TCP 80", "ingress"),
                ("bare/client", "shop/web", "TCP 80", "ingress"),
            ],
        },
        Situation {
            name: "both selectors in one peer must match",
            objects: cluster([from(&json!({
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "back"}}}))]),
            asks: &[
                ("shop/old", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("203.0.113.9", "shop/web", "TCP 80", "ingress"),
            ],
        },
        Situation {
            name: "an empty list of peers is every peer, and of ports every port",
            objects: cluster([
                ingress(&json!([{"from": [], "ports": [{"port": 80}]}])),
                egress(&json!([{"to": [{"namespaceSelector": {}}], "ports": []}])),
            ]),
            asks: &[
                ("203.0.113.9", "shop/web", "TCP 80", "-"),
                ("203.0.113.9", "shop/web", "UDP 80", "ingress"),
                ("shop/client", "yard/client", "SCTP 7", "-"),
                ("shop/client", "203.0.113.9", "SCTP 7", "egress"),
                ("shop/client", "yard/client", "ICMP", "-"),
            ],
        },
    ]
}

fn operators() -> Vec<Situation> {
    let expression = |key: &str, operator: &str, values: Value| {
        let mut one = json!({"key": key, "operator": operator});
        if !values.is_null() {
            one["values"] = values;
        }
        json!({"matchExpressions": [one]})
    };
    vec![
        Situation {
            name: "a namespace has its name as a label, also without a manifest",
            objects: cluster([from(&json!({
                "namespaceSelector": expression("kubernetes.io/metadata.name", "In", json!(["bare", "yard"]))}))]),
            asks: &[
                ("bare/client", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80", "-"),
                ("shop/client", "shop/web", "TCP 80", "ingress"),
            ],
        },
        Situation {
            name: "NotIn matches namespaces without the label",
            objects: cluster([from(
                &json!({"namespaceSelector": expression("env", "NotIn", json!(["test"]))}),
            )]),
            asks: &[
                ("bare/client", "shop/web", "TCP 80", "-"),
                ("shop/client", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80", "ingress"),
            ],
        },
        Situation {
            name: "DoesNotExist matches pods without labels",
            objects: cluster([from(&json!({
                "namespaceSelector": {}, "podSelector": expression("app", "DoesNotExist", Value::Null)}))]),
            asks: &[
                ("bare/client", "shop/web", "TCP 80 v6", "-"),
                ("yard/client", "shop/web", "TCP 80 v6", "ingress"),
            ],
        },
        Situation {
            name: "Exists and In are about labels that are there",
            objects: cluster([
                from(&json!({"podSelector": expression("tier", "Exists", Value::Null)})),
                egress(
                    &json!([{"to": [{"podSelector": expression("tier", "In", json!(["back", "none"]))}]}]),
                ),
            ]),
            asks: &[
                ("shop/old", "shop/web", "TCP 80", "egress"),
                ("shop/web", "shop/old", "TCP 80", "-"),
                ("shop/client", "shop/old", "TCP 80", "ingress"),
                ("shop/client", "yard/client", "TCP 80", "egress"),
            ],
        },
    ]
}

fn ports() -> Vec<Situation> {
    vec![
        Situation {
            name: "endPort is the last port of the range",
            objects: cluster([ingress(&json!([{"ports": [{"port": 8000, "endPort": 8010},
                {"port": 65535, "protocol": "UDP"}]}]))]),
            asks: &[
                ("yard/client", "shop/web", "TCP 7999", "ingress"),
                ("yard/client", "shop/web", "TCP 8000", "-"),
                ("yard/client", "shop/web", "TCP 8010", "-"),
                ("yard/client", "shop/web", "TCP 8011", "ingress"),
                ("yard/client", "shop/web", "UDP 8005", "ingress"),
                ("yard/client", "shop/web", "UDP 65535 v6", "-"),
            ],
        },
        Situation {
            name: "a protocol without a port is all of its ports, and no other protocol",
            objects: cluster([ingress(&json!([{"ports": [{"protocol": "SCTP"}]}]))]),
            asks: &[
                ("yard/client", "shop/web", "SCTP 1", "-"),
                ("yard/client", "shop/web", "SCTP 65535", "-"),
                ("yard/client", "shop/web", "TCP 1", "ingress"),
                ("yard/client", "shop/web", "ICMP", "ingress"),
            ],
        },
        Situation {
            name: "a named port of ingress is the selected pod's",
            objects: cluster([ingress(
                &json!([{"ports": [{"port": "http"}, {"port": "dns", "protocol": "UDP"},
                {"port": "sig", "protocol": "SCTP"}, {"port": "none"}]}]),
            )]),
            asks: &[
                ("yard/client", "shop/web", "TCP 8080", "-"),
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("yard/client", "shop/web", "UDP 53", "-"),
                ("yard/client", "shop/web", "TCP 53", "ingress"),
                ("yard/client", "shop/web", "SCTP 2905 v6", "-"),
                ("yard/client", "shop/old", "TCP 80", "-"),
                ("yard/client", "shop/old", "TCP 8080", "ingress"),
            ],
        },
        Situation {
            name: "a named port of egress is each destination's",
            objects: cluster([egress(
                &json!([{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]),
            )]),
            asks: &[
                ("shop/client", "shop/web", "TCP 8080", "-"),
                ("shop/client", "shop/old", "TCP 80", "-"),
                ("shop/client", "shop/web", "TCP 80", "egress"),
                ("shop/client", "shop/old", "TCP 8080 v6", "egress"),
                ("shop/client", "203.0.113.9", "TCP 8080", "egress"),
            ],
        },
    ]
}

fn blocks() -> Vec<Situation> {
    vec![
        Situation {
            name: "an except is left out of its block, and another rule may name it",
            objects: cluster([ingress(&json!([
                {"from": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/28", "10.244.2.11/32"]}}]},
                {"from": [{"ipBlock": {"cidr": "10.244.1.12/32"}}], "ports": [{"port": 80}]}]))]),
            asks: &[
                ("shop/old", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80", "ingress"),
                ("shop/client", "shop/web", "TCP 80", "ingress"),
                ("bare/client", "shop/web", "TCP 80", "-"),
                ("bare/client", "shop/web", "TCP 81", "ingress"),
                ("shop/old", "shop/web", "TCP 80 v6", "ingress"),
            ],
        },
        Situation {
            name: "a block is of one family",
            objects: cluster([
                ingress(&json!([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])),
                egress(
                    &json!([{"to": [{"ipBlock": {"cidr": "::/0", "except": ["fd00:10:244:2::/64"]}}]}]),
                ),
            ]),
            asks: &[
                ("yard/client", "shop/web", "TCP 80", "-"),
                ("yard/client", "shop/web", "TCP 80 v6", "ingress"),
                ("203.0.113.9", "shop/web", "UDP 1", "-"),
                ("shop/client", "bare/client", "TCP 80", "egress"),
                ("shop/client", "bare/client", "TCP 80 v6", "-"),
                ("shop/client", "yard/client", "TCP 80 v6", "egress"),
            ],
        },
    ]
}

fn pods() -> Vec<Situation> {
    let mut host = pod("shop/host", 1, 1, &json!({"app": "client"}));
    host["spec"]["hostNetwork"] = true.into();
    host["status"]["podIPs"] = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]);
    let mut job = pod("shop/job", 1, 13, &json!({"app": "client"}));
    job["status"]["phase"] = "Succeeded".into();
    let mut failed = pod("shop/failed", 2, 13, &json!({"app": "client"}));
    failed["status"]["phase"] = "Failed".into();
    let mut late = pod("shop/late", 2, 14, &json!({"app": "client"}));
    late["status"] = json!({"phase": "Pending"});
    let mut single = pod("shop/single", 2, 15, &json!({"app": "client"}));
    single["status"] = json!({"podIP": "10.244.2.15"});
    vec![
        Situation {
            name: "a pod on its node's network is neither isolated nor found by labels",
            objects: cluster([
                host,
                policy(
                    "shop/all",
                    &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
                    "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}),
                ),
            ]),
            asks: &[
                ("shop/host", "shop/web", "TCP 80", "-"),
                ("shop/host", "shop/old", "TCP 80", "ingress"),
                ("shop/old", "shop/host", "TCP 80", "egress"),
                ("yard/client", "shop/host", "TCP 80 v6", "-"),
            ],
        },
        Situation {
            name: "the address of a pod that has ended is nobody's",
            objects: cluster([job, failed, late, from(&json!({"podSelector": {}}))]),
            asks: &[
                ("10.244.1.11", "shop/web", "TCP 80", "-"),
                ("10.244.1.13", "shop/web", "TCP 80", "ingress"),
                ("10.244.2.13", "shop/web", "TCP 80", "ingress"),
                ("10.244.2.14", "shop/web", "TCP 80", "ingress"),
            ],
        },
        Situation {
            name: "podIP counts where there are no podIPs",
            objects: cluster([
                single,
                from(&json!({"podSelector": {"matchLabels": {"app": "client"}}})),
            ]),
            asks: &[
                ("shop/single", "shop/web", "TCP 80", "-"),
                ("10.244.2.15", "shop/old", "TCP 80", "-"),
            ],
        },
    ]
}

#[test]
fn explain_knows_the_api_s_text() {
    for situation in all() {
        let probes: Vec<_> = situation.asks.iter().map(probe).collect();
        let answers = situation.scene().all(&probes);
        for (ask, answer) in situation.asks.iter().zip(&answers) {
            let denier = match (answer["egress"].as_str(), answer["ingress"].as_str()) {
                (Some("allow"), Some("allow")) => "-",
                (Some("deny"), Some("allow")) => "egress",
                (Some("allow"), Some("deny")) => "ingress",
                _ => "both",
            };
            assert_eq!(denier, ask.3, "{}: {ask:?}: {answer:#}", situation.name);
            let verdict = if ask.3 == "-" { "allow" } else { "deny" };
            assert_eq!(answer["verdict"], verdict);
        }
    }
}

/// The same as packets: who denies is the end whose node drops them.
#[test]
fn packets_pass_as_the_api_s_text_says() {
    for situation in all() {
        let scene = situation.scene();
        let probes: Vec<_> = situation.asks.iter().map(probe).collect();
        let answers = scene.all(&probes);
        let first = |(probe, answer): (&Value, &Value)| First {
            from: answer["from"]["ip"].as_str().unwrap().parse().unwrap(),
            to: answer["to"]["ip"].as_str().unwrap().parse().unwrap(),
            protocol: probe["protocol"].as_str().unwrap().to_owned(),
            port: probe["port"].as_u64().map(|port| u16::try_from(port).unwrap()),
        };
        let packets: Vec<_> = probes.iter().zip(&answers).map(first).collect();
        let fates = send(&scene.folder.path().join("manifests"), &packets);
        for ((ask, fate), answer) in situation.asks.iter().zip(&fates).zip(&answers) {
            // The first that denies drops it.
            let expected = if ask.3 == "both" { "egress" } else { ask.3 };
            assert_eq!(fate.denier(), expected, "{}: {ask:?}: {fate:?}", situation.name);
            let is_in_cluster = answer["to"]["node"].is_string();
            if expected == "-" && is_in_cluster {
                assert!(fate.delivered_to.is_some(), "{}: {ask:?}: {fate:?}", situation.name);
            }
        }
    }
}
