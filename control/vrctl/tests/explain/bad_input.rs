//! What is refused, and how it is said.

use serde_json::{Value, json};

use crate::scene::{Scene, node, pod, policy, probe, stderr};

fn scene() -> Scene {
    let mut v6_only = pod("shop/six", 1, 11, &json!({}));
    v6_only["status"]["podIPs"] = json!([{"ip": "fd00:10:244:1::11"}]);
    let mut pending = pod("shop/late", 1, 12, &json!({}));
    pending["status"] = json!({});
    let mut bad = pod("shop/bad", 1, 13, &json!({}));
    bad["status"]["podIPs"] = json!([{"ip": "10.244.1"}]);
    Scene::new(&[node(1), pod("shop/web", 1, 10, &json!({})), v6_only, pending, bad])
}

#[test]
fn an_end_that_is_not_there_is_named_with_those_that_are() {
    let scene = scene();
    for (from, expected) in [
        (
            "shop/wbe",
            "there is no pod shop/wbe in the manifests; those of namespace shop are bad, late, six, \
             web",
        ),
        ("yard/web", "namespace yard has none at all"),
        ("shop/late", "pod shop/late has no address: it is not running yet, or has ended"),
        (
            "shop/bad",
            "pod shop/bad has no address that counts: status.podIPs[0].ip: `10.244.1` is not an IP \
             address",
        ),
        ("shop/six", "shop/six and 10.0.0.1 have no family in common"),
        ("fd00::1", "fd00::1 and 10.0.0.1 have no family in common"),
    ] {
        let output = scene.explain(&["--from", from, "--to", "10.0.0.1", "--port", "80"]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_family_matters_only_where_both_ends_have_both() {
    let scene = scene();
    let mut v4_only = pod("shop/four", 1, 14, &json!({}));
    v4_only["status"]["podIPs"] = json!([{"ip": "10.244.1.14"}]);
    let mut other = pod("shop/seven", 1, 15, &json!({}));
    other["status"]["podIPs"] = json!([{"ip": "fd00:10:244:1::15"}]);
    scene.write("manifests/more.json", &v4_only.to_string());
    scene.write("manifests/other.json", &other.to_string());
    let six = "fd00:10:244:1::11";
    for (from, to, family, ip) in [
        ("shop/six", "shop/seven", json!(4), six),
        ("shop/six", "shop/seven", json!(null), six),
        ("shop/six", "shop/web", json!(4), six),
        ("shop/four", "shop/web", json!(6), "10.244.1.14"),
        ("shop/web", "shop/four", json!(6), "10.244.1.10"),
        ("shop/web", "shop/web", json!(6), "fd00:10:244:1::10"),
        ("shop/web", "shop/web", json!(null), "10.244.1.10"),
    ] {
        let mut probe = probe(from, to, "TCP", 80);
        probe["family"] = family;
        let answers = scene.all(&[probe.clone()]);
        assert_eq!(answers[0]["from"]["ip"], ip, "{probe}");
    }
    let (answers, code) = scene.answers(&[probe("shop/six", "shop/four", "TCP", 80)]);
    assert_eq!(code, Some(1));
    let error = answers[0]["error"].as_str().unwrap();
    assert!(error.contains("shop/six and shop/four have no family in common"), "{error}");
}

#[test]
fn a_pod_whose_address_is_refused_is_judged_by_its_labels() {
    let policy = policy("x/db", &json!({"podSelector": {"matchLabels": {"app": "db"}}}));
    for status in [
        json!([{"ip": "10.244.1.10"}]),
        json!([{"ip": "10.9.9.9"}]),
        json!([{"ip": "10.244.1.21"}, {"ip": "nonsense"}]),
        json!([{"ip": "fd00:10:244:1::21"}, {"ip": "10.244.1.21"}, {"ip": "10.244.1.22"}]),
    ] {
        let mut new = pod("x/new", 1, 21, &json!({"app": "db"}));
        new["status"]["podIPs"] = status;
        let scene = Scene::new(&[node(1), pod("shop/web", 1, 10, &json!({})), new, policy.clone()]);
        let answer = scene.all(&[probe("shop/web", "x/new", "TCP", 80)]).remove(0);
        assert_eq!(answer["ingress"], "deny", "{answer:#}");
        let notes = answer["notes"].to_string();
        assert!(notes.contains("pod x/new") && notes.contains("status.podIPs"), "{notes}");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let scene = scene();
    let ends = ["--from", "shop/web", "--to", "10.0.0.1"];
    for (arguments, expected) in [
        (&["--protocol", "HTTP", "--port", "80"][..], "expected TCP, UDP, SCTP or ICMP"),
        (&["--protocol", "UDP"], "port is missing; UDP needs one from 1 to 65535"),
        (&["--port", "0"], "0 is not in 1..=65535"),
        (&["--port", "65536"], "65536 is not in 1..=65535"),
        (&["--protocol", "ICMP", "--port", "8"], "ICMP has no ports"),
        (&["--port", "80", "--family", "5"], "expected 4 or 6"),
        (&["--port", "80", "--probes", "x.json"], "cannot be used with"),
    ] {
        let output = scene.explain(&[&ends[..], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    for arguments in [&["--from", "web", "--to", "10.0.0.1"][..], &["--from", "shop/web"], &[]] {
        assert_eq!(scene.explain(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_bad_probe_loses_none_of_the_others() {
    let scene = scene();
    let good = probe("shop/web", "10.0.0.1", "TCP", 80);
    let mut bad: Vec<Value> = vec![
        json!(null),
        probe("shop/nobody", "10.0.0.1", "TCP", 80),
        probe("shop/web", "10.0.0.1", "HTTP", 80),
    ];
    let mut portless = good.clone();
    portless.as_object_mut().unwrap().remove("port");
    bad.push(portless);
    let probes: Vec<Value> = bad.iter().flat_map(|bad| [good.clone(), bad.clone()]).collect();
    let (answers, code) = scene.answers(&probes);
    assert_eq!(code, Some(1));
    assert_eq!(answers.len(), probes.len());
    for pair in answers.chunks(2) {
        assert_eq!(pair[0]["verdict"], "allow");
        assert!(pair[1].get("verdict").is_none() && pair[1]["error"].is_string(), "{pair:?}");
    }
    let output = scene.explain(&["--probes", "probes.json", "--json"]);
    let error = stderr(&output);
    assert!(
        error.contains("4 of 8 probes have no answer: the first is number 1 (from 0)"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_list_is_refused_with_the_position() {
    let scene = scene();
    for (text, expected) in [
        ("[\n  {\"from\": oops}\n]", "probes.json is no JSON: expected value at line 2 column 12"),
        ("[{}", "line 1 column 3"),
        ("{\"from\": {}}", "the probes are not a list; put them into [ and ]"),
        ("", "line 1 column 0"),
    ] {
        scene.write("probes.json", text);
        let output = scene.explain(&["--probes", "probes.json", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let output = scene.explain(&["--probes", "missing.json"]);
    assert!(stderr(&output).contains("cannot read missing.json"));
    scene.write("probes.json", "[]");
    let output = scene.explain(&["--probes", "probes.json", "--json"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"[]\n"[..]));
}

#[test]
fn broken_manifests_are_refused_with_file_line_and_field() {
    let scene = scene();
    let ask = ["--from", "shop/web", "--to", "10.0.0.1", "--port", "80"];
    scene.write("manifests/broken.yaml", "apiVersion: v1\nkind: Pod\nspec: {hostNetwork: 3}\n");
    let output = scene.explain(&ask);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("broken.yaml:3") && error.contains("spec.hostNetwork"), "{error}");
}

#[test]
fn a_refused_rule_is_noted_where_it_matters() {
    let scene = Scene::new(&[
        node(1),
        pod("shop/web", 1, 10, &json!({})),
        policy(
            "shop/web",
            &json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]}),
        ),
    ]);
    let answer = scene.json(&["--from", "10.0.0.1", "--to", "shop/web", "--port", "80"]);
    assert_eq!(answer["verdict"], "deny");
    let note = answer["notes"][0].as_str().unwrap();
    assert!(note.contains("shop/web: spec.ingress[0].from[0].ipBlock.cidr"), "{note}");
    let answer = scene.json(&["--from", "shop/web", "--to", "10.0.0.1", "--port", "80"]);
    assert_eq!(answer["notes"], json!([]), "it says nothing about egress");
}

#[test]
fn a_node_without_a_manifest_is_noted() {
    let scene = scene();
    let ask = ["--from", "shop/web", "--to", "10.0.0.1", "--port", "80", "--node", "node-9"];
    let output = scene.explain(&ask);
    assert!(output.status.success());
    assert!(stderr(&output).contains("no manifest is about a node node-9"));
}
