//! Policies of any size: what control compiles of them, the engine takes.

use std::collections::BTreeMap;

use control::{
    cluster::Pod,
    names::PodName,
    policy::{Change, Compiler, Policy, Scope, Update},
};
use control_api::{engine::object::Kind, policy::MESSAGE_BYTES_MAX};
use prost::Message as _;
use serde_json::{Value, json};
use vrouter::policy::{AddressSetObject, PolicySetObject};

fn rule_with(blocks: usize, ports: usize) -> Value {
    let blocks = (0..blocks).map(|n| {
        let [.., a, b, c] = (n * 2).to_be_bytes();
        json!({"ipBlock": {"cidr": format!("10.{a}.{b}.{c}/31")}})
    });
    let ports = (0..ports).map(|n| json!({"port": 1 + 2 * n}));
    json!({"from": blocks.collect::<Vec<_>>(), "ports": ports.collect::<Vec<_>>()})
}

/// Compiles policies for one pod, and has the engine read what comes of them. Returns how many
/// rules there are, and the faulty fields.
fn compile(policies: &[Value]) -> (usize, Vec<String>) {
    let pod = Pod {
        name: PodName::new("shop", "web"),
        node: None,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        contested: Vec::new(),
        host_network: false,
        labels: BTreeMap::new(),
        named_ports: Vec::new(),
        port_type: None,
        shared_dir: None,
    };
    let policies = policies.iter().enumerate().map(|(index, spec)| {
        let object = json!({
            "metadata": {"namespace": "shop", "name": format!("{index:0300}")}, "spec": spec});
        Change::Policy(Policy::parse(&serde_json::from_value(object).unwrap()))
    });
    let mut compiler = Compiler::new(Scope::Cluster);
    let update: Update = compiler.apply(policies.chain([Change::Pod(pod)]));
    let mut rules = 0;
    for object in update.objects() {
        assert!(object.encoded_len() < MESSAGE_BYTES_MAX - (2 << 20));
        match object.kind.unwrap() {
            Kind::AddressSet(set) => drop(AddressSetObject::try_from(set).unwrap()),
            Kind::PolicySet(set) => rules += PolicySetObject::try_from(set).unwrap().rules.len(),
            other => panic!("{other:?}"),
        }
    }
    (rules, compiler.problems().into_iter().map(|problem| problem.field).collect())
}

#[test]
fn the_engine_takes_what_control_compiles_of_policies_of_any_size() {
    let except: Vec<_> = (0..4200).map(|n| format!("10.0.{}.{}/32", n / 256, n % 256)).collect();
    let except = |count: usize| json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": except[..count]}}]});
    let first = ["spec.ingress[0]".to_owned()];
    for (rule, rules, faulty) in [
        (rule_with(0, 4199), 2, None),
        (rule_with(16, 4096), 16, None),
        (rule_with(17, 4096), 0, Some("spec.ingress[0]")),
        (rule_with(1500, 1500), 0, Some("spec.ingress[0]")),
        (rule_with(8191, 0), 8191, None),
        (rule_with(70_000, 0), 0, Some("spec.ingress[0]")),
        (except(4096), 1, None),
        (except(4200), 0, Some("spec.ingress[0].from[0].ipBlock.except")),
    ] {
        // The rule beside it holds, whatever becomes of the first.
        let found = compile(&[json!({"ingress": [rule, {"ports": [{"port": 1}]}]})]);
        let faulty: Vec<_> = faulty.into_iter().map(str::to_owned).collect();
        assert_eq!(found, (rules + 1, faulty));
    }
    // Each fits by itself, and not all of them together.
    let many = vec![json!({"ingress": [rule_with(16, 4096)]}); 20];
    let (rules, faulty) = compile(&many);
    assert!(rules >= 128 && rules % 16 == 0 && rules < 320, "{rules}");
    assert!(faulty.len() == 20 - rules / 16 && faulty.iter().all(|field| first.contains(field)));
    let many = vec![json!({"ingress": [rule_with(8000, 0)]}); 4];
    assert_eq!(compile(&many), (16_000, vec![first[0].clone(), first[0].clone()]));
    let (rules, faulty) = compile(&vec![json!({"ingress": [{}]}); 8200]);
    assert_eq!((rules, faulty.len()), (8192, 8));
}
