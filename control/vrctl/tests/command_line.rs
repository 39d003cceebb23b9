//! What vrctl does without anybody to ask.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

use std::process::{Command, Output};

fn vrctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vrctl"))
        .args(arguments)
        .env_remove("VROUTER_ENGINE_SOCKET")
        .env_remove("VROUTER_CONTROL_SOCKET")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const ASKING: [&str; 7] = ["ports", "routes", "neighbours", "tunnels", "flows", "drops", "workers"];

#[test]
fn an_engine_that_is_away_is_exit_code_3_and_the_next_step() {
    for command in ASKING {
        let output = vrctl(&[command, "--socket", "/nonexistent/engine.sock"]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let error = stderr(&output);
        assert!(error.contains("/nonexistent/engine.sock"), "{error}");
        assert!(error.contains("systemctl status vrouter"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn control_that_is_away_is_named() {
    let output = vrctl(&["attachments", "--control-socket", "/nonexistent/control.sock"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("systemctl status vrouter-control"));
}

#[test]
fn status_tells_what_it_knows_when_both_are_away() {
    let away = ["--socket", "/nonexistent/e", "--control-socket", "/nonexistent/c"];
    let output = vrctl(&[&["status", "--json"], &away[..]].concat());
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["engine"].is_null());
    assert!(report["engine_error"].as_str().unwrap().contains("/nonexistent/e"));
    assert!(report["control_error"].as_str().unwrap().contains("/nonexistent/c"));
}

#[test]
fn the_sockets_come_from_the_environment_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_vrctl"))
        .arg("ports")
        .env("VROUTER_ENGINE_SOCKET", "/nonexistent/from-env.sock")
        .output()
        .unwrap();
    assert!(stderr(&output).contains("/nonexistent/from-env.sock"));
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for arguments in [
        &["fly"][..],
        &["ports", "--nonsense"],
        &["routes", "--get", "nowhere"],
        &["flows", "--protocol", "http"],
        &["drops", "--watch", "0"],
        &["flows", "--port", "0"],
    ] {
        let output = vrctl(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!stderr(&output).is_empty());
    }
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    let output = vrctl(&["--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    for needle in ["Examples:", "Exit codes:", "vrctl drops --watch", "--json", "--socket"] {
        assert!(help.contains(needle), "{needle} is missing from:\n{help}");
    }
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = vrctl(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("vrctl") && script.contains("neighbours"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_vrctl"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
