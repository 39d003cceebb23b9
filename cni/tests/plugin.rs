//! The plugin alone, as a runtime calls it, with nobody to ask. What it does with control is in
//! `control/tests`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Runs the plugin; returns whether it succeeded, and what it printed.
fn call(command: Option<&str>, config: &str) -> (bool, Value) {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_vrouter-cni"));
    plugin.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(command) = command {
        plugin.env("CNI_COMMAND", command);
    }
    let mut child = plugin.spawn().unwrap();
    // A plugin that does not read its configuration may have ended before.
    let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
}

const CONFIG: &str = r#"{"cniVersion": "0.4.0", "name": "x", "type": "vrouter-cni", "socket": "/nonexistent/c.sock"}"#;

#[test]
fn version_works_with_nothing_else_set() {
    for config in ["", "{}", CONFIG] {
        let (is_success, printed) = call(Some("VERSION"), config);
        assert!(is_success);
        assert_eq!(printed["supportedVersions"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn a_missing_control_is_said_in_the_version_asked_for() {
    for (command, code) in [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let (is_success, printed) = call(Some(command), CONFIG);
        assert!(!is_success, "{command}");
        assert_eq!(printed["code"], code, "{command}: {printed}");
        assert_eq!(printed["cniVersion"], "0.4.0");
        let details = printed["details"].as_str().unwrap();
        assert!(details.contains("/nonexistent/c.sock does not exist"), "{details}");
    }
}

#[test]
fn what_a_runtime_would_never_say_is_named() {
    let cases = [
        (None, CONFIG, 4, "CNI_COMMAND"),
        (Some("ADD"), "{", 6, "not JSON"),
        (Some("ADD"), "", 6, "not JSON"),
        (Some("ADD"), r#"{"cniVersion": "1.0.0", "socket": "here"}"#, 7, "socket"),
    ];
    for (command, config, code, word) in cases {
        let (is_success, printed) = call(command, config);
        assert!(!is_success);
        assert_eq!(printed["code"], code, "{printed}");
        assert!(printed["msg"].as_str().unwrap().contains(word), "{printed}");
    }
}
