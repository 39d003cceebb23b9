//! Tests of the manifests folder.

use super::*;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n\
                    spec: {podCIDRs: [10.244.1.0/24]}\n\
                    status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n";

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let folder = Folder::new(dir.path());
    (dir, folder)
}

fn kinds(folder: &Folder) -> Vec<&'static str> {
    let kind = |sourced: &Sourced| match sourced.manifest {
        Manifest::Node(_) => "Node",
        Manifest::Namespace(_) => "Namespace",
        Manifest::Pod(_) => "Pod",
        Manifest::Service(_) => "Service",
        Manifest::EndpointSlice(_) => "EndpointSlice",
        Manifest::NetworkPolicy(_) => "NetworkPolicy",
    };
    folder.objects().map(kind).collect()
}

#[test]
fn documents_and_lists_of_all_files_are_read_in_order() {
    let list = "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n\
                - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: n}}\n";
    let pods = "kind: PodList\napiVersion: v1\nitems: [{metadata: {name: q}}]\n";
    let several = format!("# a comment only\n---\n{NODE}---\n\n--- # more\n{pods}");
    let (_dir, mut folder) = folder(&[
        ("b.yml", &several),
        ("a.yaml", list),
        ("c.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}"#),
        (".hidden.yaml", "{"),
        ("notes.txt", "{"),
    ]);
    let problems = folder.reload();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(kinds(&folder), ["Pod", "NetworkPolicy", "Node", "Pod", "Namespace"]);
}

#[test]
fn broken_yaml_is_named_by_line_and_the_last_good_state_stays() {
    let (dir, mut folder) = folder(&[("nodes.yaml", NODE)]);
    assert!(folder.reload().is_empty());
    fs::write(dir.path().join("nodes.yaml"), format!("{NODE}---\n{NODE}x: [1\ny: 2\n")).unwrap();
    let problems = folder.reload();
    let [error] = problems.as_slice() else { panic!("{problems:?}") };
    let ManifestError::Syntax { place, .. } = error else { panic!("{error}") };
    assert_eq!(place.line, 13, "{error}");
    assert_eq!(kinds(&folder), ["Node"]);
    fs::remove_file(dir.path().join("nodes.yaml")).unwrap();
    assert!(folder.reload().is_empty());
    assert!(kinds(&folder).is_empty());
}

#[test]
fn items_of_a_list_of_one_kind_may_leave_out_kind_and_version() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\n\
                items: [{metadata: {name: a}}, {kind: NetworkPolicy, metadata: {name: b}}]\n";
    let (_dir, mut folder) = folder(&[("policies.yaml", text)]);
    assert!(folder.reload().is_empty());
    assert_eq!(kinds(&folder), ["NetworkPolicy", "NetworkPolicy"]);
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_its_line() {
    let text = "\n\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-a\nspec:\n  podCIDRs: 7\n";
    let (_dir, mut folder) = folder(&[("nodes.yaml", text)]);
    let problems = folder.reload();
    let [ManifestError::Field { place, field, object, message }] = problems.as_slice() else {
        panic!("{problems:?}")
    };
    assert_eq!((place.line, field.as_str(), object.as_str()), (8, "spec.podCIDRs", "Node node-a"));
    assert!(message.starts_with("invalid type") && !message.contains("line"), "{message}");
}

#[test]
fn a_field_of_a_list_item_is_named_with_the_item() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec: {hostNetwork: 3}\n";
    let (_dir, mut folder) = folder(&[("pods.yaml", text)]);
    let problems = folder.reload();
    let [ManifestError::Field { field, .. }] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(field, "items[0].spec.hostNetwork");
}

#[test]
fn an_unknown_kind_is_left_out_and_the_rest_of_the_file_stays() {
    let text = format!("apiVersion: apps/v1\nkind: Deployment\n---\n{NODE}");
    let (_dir, mut folder) = folder(&[("all.yaml", &text)]);
    let problems = folder.reload();
    assert!(matches!(problems.as_slice(), [ManifestError::UnknownKind { .. }]), "{problems:?}");
    assert_eq!(kinds(&folder), ["Node"]);
}

#[test]
fn a_folder_that_vanishes_changes_nothing() {
    let (dir, mut folder) = folder(&[("nodes.yaml", NODE)]);
    folder.reload();
    drop(dir);
    assert!(matches!(folder.reload().as_slice(), [ManifestError::Folder { .. }]));
    assert_eq!(kinds(&folder), ["Node"]);
}

#[test]
fn text_that_is_no_object_is_refused() {
    let (_dir, mut folder) = folder(&[("x.yaml", "just words\n")]);
    assert!(matches!(folder.reload().as_slice(), [ManifestError::Syntax { .. }]));
}

#[test]
fn a_file_from_the_future_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, "").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_hours(1)).unwrap();
    let mut folder = Folder::new(folder.path());
    folder.reload();
    let revision = folder.revision();
    folder.reload();
    assert_eq!(folder.revision(), revision);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let (_dir, mut folder) = folder(&[("nodes.yaml", &format!("\u{feff}---\n{NODE}"))]);
    let problems = folder.reload();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(kinds(&folder), ["Node"]);
}

#[test]
fn a_wrong_type_in_a_policy_is_the_policys_own_fault() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {namespace: shop, name: web}\n\
                  spec: {ingress: [{ports: [{port: 80, endPort: \"90\"}]}, {}]}\n";
    let list = "kind: NetworkPolicyList\napiVersion: networking.k8s.io/v1\n\
                items: [{metadata: {namespace: shop, name: db}, spec: 7}]\n";
    let text = format!("{policy}---\n{NODE}---\n{list}");
    let (_dir, mut folder) = folder(&[("all.yaml", &text)]);
    let problems = folder.reload();
    assert!(problems.is_empty(), "{problems:?}");
    let (cluster, refusals) = folder.cluster();
    assert_eq!((cluster.nodes.len(), cluster.policies.len()), (1, 2));
    let refusals: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    let [db, web] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert!(db.contains("all.yaml:12: NetworkPolicy shop/db: spec: it is a number"), "{db}");
    let start =
        "all.yaml:1: NetworkPolicy shop/web: spec.ingress[0].ports[0].endPort: it is a text";
    assert!(web.contains(start), "{web}");
}

#[test]
fn a_policy_that_no_one_can_name_is_a_fault_of_its_file() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: [x]}\n";
    let (_dir, mut folder) = folder(&[("x.yaml", text)]);
    let problems = folder.reload();
    let [ManifestError::Field { field, .. }] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(field, "metadata.name");
}

#[test]
fn an_object_without_a_kind_is_a_fault_of_its_file() {
    for (text, expected) in [
        ("apiVersion: v1\nmetadata: {name: x}\n", "kind"),
        ("{}\n", "kind"),
        ("apiVersion: v1\nkind: List\nitems: [{metadata: {name: x}}]\n", "items[0].kind"),
    ] {
        let (_dir, mut folder) = folder(&[("x.yaml", text)]);
        let problems = folder.reload();
        let [ManifestError::Field { field, .. }] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert_eq!(field, expected);
    }
}

#[test]
fn a_policy_of_another_version_is_told_which_to_write() {
    for version in ["", "v1", "extensions/v1beta1", "networking.k8s.io/v1beta1"] {
        let text = format!(
            "apiVersion: \"{version}\"\nkind: NetworkPolicy\n\
             metadata: {{namespace: shop, name: web}}\n---\n{NODE}"
        );
        let (_dir, mut folder) = folder(&[("x.yaml", &text)]);
        let problems = folder.reload();
        let [error @ ManifestError::PolicyVersion { .. }] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        let told = error.to_string();
        assert!(
            told.contains("NetworkPolicy shop/web: ") && told.ends_with("networking.k8s.io/v1")
        );
        assert_eq!(kinds(&folder), ["Node"]);
    }
}
