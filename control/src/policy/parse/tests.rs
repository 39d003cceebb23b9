use serde_json::{Value, json};

use super::{super::section::TermPeer, *};

fn parse(spec: &Value) -> Policy {
    let object = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
    Policy::parse(&serde_json::from_value(object).unwrap())
}

fn isolates(policy: &Policy) -> (bool, bool) {
    let isolates = |direction| policy.section(direction).is_some();
    (isolates(Direction::Ingress), isolates(Direction::Egress))
}

/// The paths of what a policy still allows.
fn paths(policy: &Policy) -> Vec<&str> {
    let sections = policy.sections.iter().flatten();
    sections.flat_map(|section| &section.terms).map(|term| term.path.as_str()).collect()
}

#[test]
fn absent_types_mean_ingress_and_egress_if_there_is_a_rule_for_it() {
    for (spec, expected) in [
        (json!({}), (true, false)),
        (json!({"policyTypes": []}), (true, false)),
        (json!({"egress": []}), (true, false)),
        (json!({"egress": [{}]}), (true, true)),
        (json!({"policyTypes": ["Egress"]}), (false, true)),
        (json!({"policyTypes": ["Egress"], "ingress": [{}]}), (false, true)),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), (true, false)),
        (json!({"policyTypes": ["Ingress", "Egress"]}), (true, true)),
    ] {
        assert_eq!(isolates(&parse(&spec)), expected, "{spec}");
    }
    let without_spec = json!({"metadata": {"namespace": "shop", "name": "web"}});
    let policy = Policy::parse(&serde_json::from_value(without_spec).unwrap());
    assert_eq!(isolates(&policy), (true, false));
    assert_eq!(policy.selector, Selector::default());
}

#[test]
fn an_unknown_type_isolates_in_both_directions_and_the_rules_hold() {
    for (spec, allowed) in [
        (json!({"policyTypes": ["egress"]}), vec![]),
        (json!({"policyTypes": ["Ingress", "Egres"], "ingress": [{}]}), vec!["spec.ingress[0]"]),
        (json!({"policyTypes": ["Outbound"], "egress": [{}]}), vec!["spec.egress[0]"]),
    ] {
        let policy = parse(&spec);
        assert_eq!(isolates(&policy), (true, true), "{spec}");
        assert_eq!(paths(&policy), allowed, "{spec}");
        assert_eq!(policy.problems().len(), 1, "{spec}");
        assert_eq!(policy.problems()[0].consequence, Consequence::IsolatesBoth);
    }
}

#[test]
fn a_path_names_the_peer() {
    let policy = parse(&json!({
        "ingress": [{}, {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        "egress": [{"ports": [{"port": 53}, {"port": "dns"}], "to": [{"namespaceSelector": {}}]}],
    }));
    let to = "spec.egress[0].to[0]";
    let expected =
        ["spec.ingress[0]", "spec.ingress[1].from[0]", "spec.ingress[1].from[1]", to, to];
    assert_eq!(paths(&policy), expected);
}

#[test]
fn a_bad_peer_or_port_closes_its_rule_and_no_other() {
    let peer = |peer: Value| json!({"from": [{"podSelector": {}}, peer]});
    let port = |port: Value| json!({"ports": [{"port": 80}, port]});
    let block =
        |cidr: &str, except: &[&str]| peer(json!({"ipBlock": {"cidr": cidr, "except": except}}));
    for (rule, field) in [
        (peer(json!({})), "from[1]"),
        (peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})), "from[1]"),
        (block("10.0.0.0/33", &[]), "from[1].ipBlock.cidr"),
        (block("10.0.0.0", &[]), "from[1].ipBlock.cidr"),
        (block("", &[]), "from[1].ipBlock.cidr"),
        (block("10.0.0.0/8", &["10.1.0.0/16", "11.0.0.0/16"]), "from[1].ipBlock.except[1]"),
        (block("10.0.0.0/8", &["10.0.0.0/8"]), "from[1].ipBlock.except[0]"),
        (block("10.0.0.0/8", &["0.0.0.0/0"]), "from[1].ipBlock.except[0]"),
        (block("10.0.0.0/8", &["fd00::/64"]), "from[1].ipBlock.except[0]"),
        (block("fd00::/8", &["fd00::/x"]), "from[1].ipBlock.except[0]"),
        (
            peer(json!({"namespaceSelector": {"matchExpressions": [
                {"key": "a", "operator": "Like", "values": ["b"]}]}})),
            "from[1].namespaceSelector.matchExpressions[0].operator",
        ),
        (
            peer(json!({"podSelector": {"matchExpressions": [
                {"key": "a", "operator": "Exists", "values": ["b"]}]}})),
            "from[1].podSelector.matchExpressions[0].values",
        ),
        (port(json!({"port": 0})), "ports[1].port"),
        (port(json!({"port": -1})), "ports[1].port"),
        (port(json!({"port": 65536})), "ports[1].port"),
        (port(json!({"port": "80"})), "ports[1].port"),
        (port(json!({"port": ""})), "ports[1].port"),
        (port(json!({"port": "HTTP"})), "ports[1].port"),
        (port(json!({"port": "a--b"})), "ports[1].port"),
        (port(json!({"port": "sixteen-letters-"})), "ports[1].port"),
        (port(json!({"port": 90, "endPort": 89})), "ports[1].endPort"),
        (port(json!({"port": 90, "endPort": 65536})), "ports[1].endPort"),
        (port(json!({"port": "http", "endPort": 90})), "ports[1].endPort"),
        (port(json!({"endPort": 90})), "ports[1].endPort"),
        (port(json!({"port": 90, "protocol": "tcp"})), "ports[1].protocol"),
        (port(json!({"port": 90, "protocol": "ICMP"})), "ports[1].protocol"),
        (port(json!({"protocol": ""})), "ports[1].protocol"),
    ] {
        let policy = parse(&json!({"ingress": [rule, {"ports": [{"port": 443}]}]}));
        let [problem] = policy.problems() else { panic!("{rule}: {:?}", policy.problems()) };
        assert_eq!(problem.field, format!("spec.ingress[0].{field}"), "{rule}");
        assert_eq!(problem.consequence, Consequence::RuleAllowsNothing);
        let start = format!("NetworkPolicy shop/web: spec.ingress[0].{field}: ");
        assert!(problem.to_string().starts_with(&start), "{problem}");
        assert_eq!(isolates(&policy), (true, false), "{rule}");
        assert_eq!(paths(&policy), ["spec.ingress[1]"], "{rule}");
    }
}

#[test]
fn every_problem_of_a_policy_is_named() {
    let policy = parse(&json!({
        "podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
        "policyTypes": ["Ingres"],
        "ingress": [{"from": [{}, {"ipBlock": {"cidr": "x"}}], "ports": [{"port": 0}]}],
    }));
    let consequences: Vec<_> = policy.problems().iter().map(|found| found.consequence).collect();
    let rule = Consequence::RuleAllowsNothing;
    let other = [Consequence::PolicyAllowsNothing, Consequence::IsolatesBoth];
    assert_eq!(consequences, [other[0], other[1], rule, rule, rule]);
}

#[test]
fn what_clusters_accept_is_accepted() {
    let policy = parse(&json!({
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.9.9/32"]}}],
            "ports": [{"port": 1, "endPort": 65535, "protocol": "SCTP"}, {"protocol": "UDP"},
                      {"port": 7, "endPort": 7}, {"port": "p-1"}]}],
    }));
    assert_eq!(policy.problems(), []);
    let block = policy.section(Direction::Ingress).unwrap().terms[0].peer.clone();
    let TermPeer::Block(block) = block else { panic!("{block:?}") };
    assert_eq!(block.to_string(), "10.0.0.0/8 except 10.9.9.9/32");
}

#[test]
fn a_selector_that_cannot_be_read_in_part_isolates_whom_the_rest_selects() {
    let app = json!({"key": "app", "operator": "In", "values": ["web"]});
    for bad in [
        json!({"key": "tier", "operator": "Is", "values": ["x"]}),
        json!({"key": "tier", "operator": "NotIn"}),
        json!({"key": "tier", "operator": "Exists", "values": ["x"]}),
        json!({"key": "a b", "operator": "Exists"}),
    ] {
        let spec = |expressions: Value| {
            json!({"podSelector": {"matchExpressions": expressions},
                "ingress": [{}], "egress": [{}]})
        };
        let policy = parse(&spec(json!([bad, app])));
        assert_eq!(policy.selector, parse(&spec(json!([app]))).selector, "{bad}");
        assert_eq!((isolates(&policy), paths(&policy)), ((true, true), vec![]), "{bad}");
        let [problem] = policy.problems() else { panic!("{bad}: {:?}", policy.problems()) };
        assert_eq!(problem.consequence, Consequence::PolicyAllowsNothing);
    }
    let policy = parse(&json!({"podSelector": {"matchLabels": {"a b": "c"}}, "ingress": [{}]}));
    assert_eq!((&policy.selector, paths(&policy)), (&Selector::default(), vec![]));
}

/// Reads a policy with one fault, and says what it allows: the fault is at `field`.
fn read_faulty(spec: &Value, field: &str, consequence: Consequence) -> Policy {
    let object = json!({"metadata": {"namespace": "shop", "name": "web", "free": 1},
        "spec": spec, "status": {"free": 1}, "free": 1});
    let policy = Policy::parse_readable(&PolicyObject::read(object).unwrap());
    let [problem] = policy.problems() else { panic!("{spec}: {:?}", policy.problems()) };
    assert_eq!(problem.field, format!("spec.{field}"));
    assert_eq!(problem.consequence, consequence, "{spec}");
    policy
}

#[test]
fn unknown_fields_and_wrong_types_close_the_rule_that_they_are_in() {
    let block = json!({"cidr": "10.0.0.0/8", "excepts": []});
    for (rule, field) in [
        (json!({"form": []}), ".form"),
        (json!({"to": [{}]}), ".to"),
        (json!({"from": [{"podSelector": {}, "namespace": "x"}]}), ".from[0].namespace"),
        (json!({"ports": [{"port": 80, "endport": 90}]}), ".ports[0].endport"),
        (json!({"ports": [{"port": 80, "endPort": "90"}]}), ".ports[0].endPort"),
        (json!({"ports": [{"port": 1.5}]}), ".ports[0].port"),
        (json!({"from": [{"ipBlock": block}]}), ".from[0].ipBlock.excepts"),
        (json!({"from": {}}), ".from"),
        (json!({"from": [null]}), ".from[0]"),
        (json!(null), ""),
    ] {
        let spec = json!({"podSelector": {}, "ingress": [rule, {}]});
        let field = format!("ingress[0]{field}");
        let policy = read_faulty(&spec, &field, Consequence::RuleAllowsNothing);
        assert_eq!((isolates(&policy), paths(&policy)), ((true, false), vec!["spec.ingress[1]"]));
    }
}

#[test]
fn unknown_fields_and_wrong_types_beside_the_rules_isolate_whom_they_may_be_about() {
    use Consequence::{IsolatesBoth, PolicyAllowsNothing};
    let selector = |selector: Value| json!({"podSelector": selector, "ingress": [{}]});
    let operator = json!({"matchExpressions": [{"key": "a", "operator": 7}]});
    for (spec, field, both) in [
        (json!({"ingress": {}}), "ingress", true),
        (json!({"ingress": [{}], "engress": []}), "engress", true),
        (selector(json!("x")), "podSelector", false),
        (selector(json!({"matchLabel": {}})), "podSelector.matchLabel", false),
        (selector(json!({"matchLabels": {"a": 1}})), "podSelector.matchLabels[a]", false),
        (selector(operator), "podSelector.matchExpressions[0].operator", false),
    ] {
        let policy = read_faulty(&spec, field, PolicyAllowsNothing);
        assert_eq!((isolates(&policy), paths(&policy)), ((true, both), vec![]), "{spec}");
    }
    let spec = json!({"policyTypes": "Egress", "ingress": [{}]});
    let policy = read_faulty(&spec, "policyTypes", IsolatesBoth);
    assert_eq!((isolates(&policy), paths(&policy)), ((true, true), vec!["spec.ingress[0]"]));
}

#[test]
fn what_can_be_read_of_a_selector_selects() {
    let selector = json!({"matchLabels": {"app": "web", "tier": 7}, "matchExpressions": [
        {"key": "a", "operator": "Exists", "values": 7}, {"key": "b", "operator": "Exists"}]});
    let object = json!({"metadata": {"name": "web"}, "spec": {"podSelector": selector}});
    let policy = Policy::parse_readable(&PolicyObject::read(object).unwrap());
    let rest = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
        {"key": "b", "operator": "Exists"}]});
    assert_eq!(policy.selector, parse(&json!({"podSelector": rest})).selector);
    assert_eq!(policy.problems().len(), 2);
}
