//! The answer's shape, which other programs read, and what people read.

use serde_json::{Value, json};

use crate::scene::{Scene, namespace, node, pod, policy, probe};

/// Web servers that only clients of the same namespace reach, on one port.
fn shop() -> Scene {
    Scene::new(&[
        node(1),
        node(2),
        namespace("shop", &json!({})),
        pod("shop/client", 1, 10, &json!({"app": "client"})),
        pod("shop/other", 1, 11, &json!({"app": "other"})),
        pod("shop/web", 2, 10, &json!({"app": "web"})),
        policy("shop/deny-all", &json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        policy(
            "shop/web",
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
                {"ports": [{"port": 9090, "protocol": "UDP"}]},
                {"from": [{"podSelector": {"matchLabels": {"app": "db"}}},
                          {"podSelector": {"matchLabels": {"app": "client"}}}],
                 "ports": [{"port": 80}, {"port": 8000, "endPort": 8010}]}]}),
        ),
    ])
}

#[test]
fn an_answer_has_verdicts_ends_and_reasons() {
    let scene = shop();
    let allowed = ["--from", "shop/client", "--to", "shop/web", "--port", "8005"];
    let answer = scene.json(&allowed);
    assert_eq!(answer["verdict"], "allow");
    assert_eq!(
        answer["from"],
        json!({"pod": "shop/client", "ip": "10.244.1.10", "node": "node-1"})
    );
    assert_eq!(answer["to"], json!({"pod": "shop/web", "ip": "10.244.2.10", "node": "node-2"}));
    assert_eq!((&answer["protocol"], &answer["port"]), (&json!("TCP"), &json!(8005)));
    let text = answer["ingress_reason"]["text"].clone();
    assert_eq!(
        answer["ingress_reason"],
        json!({"cause": "rule", "node": "node-2", "policies": ["shop/deny-all", "shop/web"],
            "rule": {"policy": "shop/web", "index": 1, "path": "spec.ingress[1].from[1]"},
            "text": text})
    );
    assert_eq!(answer["egress_reason"]["cause"], "not_isolated");
    assert_eq!(answer["egress_reason"]["node"], "node-1");
    assert_eq!(answer["notes"], json!([]));

    let denied = scene.json(&["--from", "shop/other", "--to", "shop/web", "--port", "80"]);
    assert_eq!(
        (&denied["verdict"], &denied["ingress"], &denied["egress"]),
        (&json!("deny"), &json!("deny"), &json!("allow"))
    );
    assert_eq!(denied["ingress_reason"]["cause"], "no_rule");
    assert_eq!(denied["ingress_reason"]["rule"], Value::Null);
}

#[test]
fn many_answers_are_in_the_order_of_the_questions() {
    let scene = shop();
    let mut probes: Vec<Value> = (0..200)
        .map(|index| {
            let from = ["shop/client", "shop/other", "10.244.1.10", "203.0.113.1"][index % 4];
            probe(from, "shop/web", "TCP", 80)
        })
        .collect();
    probes[7]["note"] = "fields that mean nothing are ignored".into();
    let answers = scene.all(&probes);
    for (index, answer) in answers.iter().enumerate() {
        let expected = [("allow", json!("shop/client")), ("deny", json!("shop/other"))];
        let (verdict, pod) = match index % 4 {
            0 | 2 => &expected[0],
            1 => &expected[1],
            _ => &("deny", Value::Null),
        };
        assert_eq!((&answer["verdict"], &answer["from"]["pod"]), (&json!(verdict), pod));
    }
}

#[test]
fn people_read_which_rule_it_is_or_what_keeps_each_from_allowing() {
    let scene = shop();
    let text = scene.text(&["--from", "shop/client", "--to", "shop/web", "--port", "80"]);
    let expected = "\
allow: shop/client (10.244.1.10, node-1) to shop/web (10.244.2.10, node-2), TCP 80

egress   allow  no policy isolates shop/client for egress
ingress  allow  allowed by shop/web spec.ingress[1].from[1]
                isolated by shop/deny-all, shop/web
";
    assert_eq!(text, expected);
    let text = scene.text(&["--from", "shop/client", "--to", "shop/web", "--port", "443"]);
    let expected = "\
deny: shop/client (10.244.1.10, node-1) to shop/web (10.244.2.10, node-2), TCP 443

egress   allow  no policy isolates shop/client for egress
ingress  deny   isolated for ingress by shop/deny-all, shop/web, and no rule allows this
                shop/web spec.ingress[0]: shop/client is one of its peers, but it allows only UDP 9090
                shop/web spec.ingress[1].from[0]: shop/client is none of its peers
                shop/web spec.ingress[1].from[1]: shop/client is one of its peers, but it allows only \
TCP 80, TCP 8000 to 8010
";
    assert_eq!(text, expected);
    let text = scene.text(&["--from", "shop/web", "--to", "shop/other", "--port", "1"]);
    assert!(text.contains("there is no rule at all, so nothing is allowed"), "{text}");
}

#[test]
fn people_get_a_table_of_many_answers() {
    let scene = shop();
    let probes = [probe("shop/client", "shop/web", "TCP", 80), json!({"from": {}})];
    scene.write("probes.json", &Value::from(&probes[..]).to_string());
    let output = scene.explain(&["--probes", "probes.json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("VERDICT  EGRESS  INGRESS  FROM"), "{text}");
    assert!(
        lines[1].starts_with("allow    allow   allow    shop/client  shop/web  TCP 80"),
        "{text}"
    );
    assert!(lines[2].starts_with("error "), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_node_says_what_it_judges_and_takes_pods_that_are_on_none() {
    let scene = shop();
    let ask = ["--from", "shop/client", "--to", "shop/web", "--port", "80", "--node"];
    let text = scene.text(&[&ask[..], &["node-1"]].concat());
    assert!(text.contains("from[1] (node node-2 judges this, not node-1)"), "{text}");
    let mut pending = pod("shop/late", 1, 12, &json!({}));
    pending["spec"]["nodeName"] = Value::Null;
    let scene = Scene::new(&[
        node(1),
        pending,
        policy("shop/deny-all", &json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
    ]);
    let ask = ["--from", "192.0.2.1", "--to", "shop/late", "--port", "80"];
    assert_eq!(scene.json(&ask)["verdict"], "deny");
    let answer = scene.json(&[&ask[..], &["--node", "node-1"]].concat());
    assert_eq!(
        (&answer["verdict"], &answer["ingress_reason"]["cause"]),
        (&json!("allow"), &json!("own_node"))
    );
}

#[test]
fn help_teaches_with_examples() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vrctl"))
        .args(["explain", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for needle in ["Examples:", "--probes", "consent of both ends", "exit code is 1"] {
        assert!(help.contains(needle), "{needle} is missing from:\n{help}");
    }
}
