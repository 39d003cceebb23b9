//! Compares JSON output with `docs/vrctl.md`.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/vrctl.md");

/// Checks that an object has exactly the fields in the table under `### section`.
pub(crate) fn assert_documented(section: &str, object: &impl Serialize) {
    let Value::Object(fields) = serde_json::to_value(object).unwrap() else {
        panic!("{section} is no object")
    };
    let in_code: BTreeSet<_> = fields.keys().map(String::as_str).collect();
    assert_eq!(documented(section), in_code, "### {section} in docs/vrctl.md");
}

fn documented(section: &str) -> BTreeSet<&'static str> {
    DOCUMENT
        .lines()
        .skip_while(|line| {
            line.strip_prefix("### ").is_none_or(|it| it.replace('`', "") != section)
        })
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split(" | ").next())
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect()
}
