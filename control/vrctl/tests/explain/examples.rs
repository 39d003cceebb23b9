//! What `docs/examples/README.md` shows of `vrctl explain` is what it says.

use std::{fs, path::PathBuf};

use crate::scene::Scene;

/// The rest of the page, from here on, is made by this test.
const HEADING: &str = "## Explained\n";

/// Set it to write the page instead of comparing with it.
const WRITE: &str = "EXPLAIN_EXAMPLES_WRITE";

/// An example, and what is asked about it: from, to, and what else.
const ASKS: [(&str, &[[&str; 3]]); 6] = [
    ("allow-all.yaml", &[["prod/api", "dev/web", "--port 80"]]),
    (
        "deny-ingress.yaml",
        &[["dev/client", "dev/web", "--port 80"], ["dev/web", "prod/api", "--port 80"]],
    ),
    (
        "web-ports.yaml",
        &[
            ["prod/db", "dev/web", "--port 443"],
            ["dev/client", "dev/web", "--port 443"],
            ["prod/db", "dev/web", "--protocol ICMP"],
        ],
    ),
    ("deny-egress.yaml", &[["prod/api", "dev/web", "--port 80"]]),
    (
        "one-namespace.yaml",
        &[["dev/client", "prod/api", "--port 80"], ["prod/db", "prod/api", "--port 80"]],
    ),
    (
        "dns-only.yaml",
        &[
            ["dev/client", "kube-system/dns", "--protocol UDP --port 53 --family 6"],
            ["dev/client", "203.0.113.7", "--port 443"],
        ],
    ),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples")
}

fn page() -> String {
    let mut page = format!(
        "{HEADING}\nWhat `vrctl explain` says about each, with `DIR` a folder with the example and \
         cluster.yaml in it.\n"
    );
    for (example, asks) in ASKS {
        let scene = Scene::new(&[]);
        for file in ["cluster.yaml", example] {
            let text = fs::read_to_string(folder().join(file)).unwrap();
            scene.write(&format!("manifests/{file}"), &text);
        }
        let answers = asks.iter().map(|[from, to, more]| {
            let more_words: Vec<&str> = more.split(' ').collect();
            let answer = scene.text(&[&["--from", from, "--to", to], &more_words[..]].concat());
            format!("$ vrctl explain --manifests DIR --from {from} --to {to} {more}\n{answer}")
        });
        let answers: Vec<_> = answers.collect();
        let section = ["\n### ", example, "\n\n```console\n", &answers.join("\n"), "```\n"];
        page.push_str(&section.concat());
    }
    page
}

#[test]
fn the_page_of_examples_shows_what_explain_says() {
    let file = folder().join("README.md");
    let text = fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_once(HEADING).unwrap();
    let page = page();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, format!("{before}{page}")).unwrap();
        return;
    }
    let shown = format!("{HEADING}{after}");
    assert_eq!(shown, page, "write it anew: {WRITE}=1 cargo test -p vrctl --test explain examples");
}
