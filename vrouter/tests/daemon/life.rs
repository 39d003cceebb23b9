//! Starting, stopping, and what is in the way.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use control_api::connect::{connect_engine, handshake};
use rustix::process::Signal;

use crate::rig::{Rig, apply, small_node};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_signal_stops_the_daemon_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let rig = Rig::new();
        let mut daemon = rig.start();
        assert_eq!(fs::metadata(rig.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(daemon.signal(signal).code(), Some(0));
        assert!(daemon.wait_for_line("stopped").contains("frames_missing=0"));
        assert!(!rig.socket().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stays_does_not_hold_up_the_end() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 1, small_node()).await.unwrap();
    assert_eq!(daemon.signal(Signal::TERM).code(), Some(0));
    assert!(daemon.wait_for_line("stopped").contains("frames_missing=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_engine_is_another_instance_without_configuration() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    let mut client = rig.client().await;
    apply(&mut client, 7, small_node()).await.unwrap();
    let first = handshake(&mut client, "test").await.unwrap();
    assert_eq!(first.generation, 7);
    // Killed: its socket stays behind, and is no obstacle.
    daemon.signal(Signal::KILL);
    assert!(rig.socket().exists());
    assert!(handshake(&mut client, "test").await.is_err());
    let _daemon = rig.start();
    let mut client = connect_engine(&rig.socket()).await.unwrap();
    let second = handshake(&mut client, "test").await.unwrap();
    assert_ne!(first.instance_id, second.instance_id);
    assert_eq!(second.generation, 0);
}

#[test]
fn a_second_engine_on_one_socket_is_refused_and_the_first_goes_on() {
    let rig = Rig::new();
    let mut first = rig.start();
    let output = rig.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is served by another process"), "{}", stderr(&output));
    assert!(first.child.try_wait().unwrap().is_none());
    assert!(rig.socket().exists());
}

#[test]
fn a_foreign_file_on_the_sockets_path_is_left_alone() {
    let rig = Rig::new();
    fs::write(rig.socket(), "precious").unwrap();
    let output = rig.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is no socket"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(rig.socket()).unwrap(), "precious");
}

#[test]
fn a_wrong_configuration_is_exit_code_2_with_the_key() {
    let rig = Rig::new();
    for (more, expected) in [
        ("worker = 2", "engine.worker; did you mean engine.workers?"),
        ("idle = \"lazy\"", "engine.idle: unknown variant `lazy`"),
        ("workers = [", "is no TOML"),
    ] {
        rig.configure(more);
        for arguments in [&["--check"][..], &[]] {
            let output = rig.run(arguments);
            assert_eq!(output.status.code(), Some(2), "{more}");
            let error = stderr(&output);
            assert!(error.contains(expected) && error.contains("vrouter.toml"), "{error}");
        }
    }
    assert!(!rig.socket().exists());
}

#[test]
fn what_cannot_be_had_is_exit_code_1_with_the_setting() {
    let rig = Rig::new();
    for (arguments, expected) in [
        (&["--cpus", "60000"][..], "engine.cpus"),
        (&["--metrics", "203.0.113.1:9300"], "engine.metrics"),
    ] {
        let output = rig.run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(!rig.socket().exists());
    }
}

#[test]
fn the_printed_configuration_is_a_right_one() {
    let rig = Rig::new();
    let printed = rig.run(&["--print-config"]);
    assert!(printed.status.success());
    fs::write(rig.config(), printed.stdout).unwrap();
    let output = rig.run(&["--check"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_right_configuration_is_said_to_be_and_nothing_is_started() {
    let rig = Rig::new();
    let output = rig.run(&["--check"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("is right"));
    assert!(!rig.socket().exists());
}
