//! Control's side of the engine's protocol, against the fixture of the far side.

use std::time::Duration;

use control::sync::{EngineLink, WaitError};
use control_api::engine::{Object, PortError, Vrf, object::Kind};

use crate::engine::FixtureEngine;

const LIMIT: Duration = Duration::from_mins(1);

fn vrf(id: u32, name: &str) -> Object {
    Object { kind: Some(Kind::Vrf(Vrf { id, name: name.to_owned(), ..Vrf::default() })) }
}

#[tokio::test]
async fn the_first_batch_is_a_full_sync_and_the_next_a_difference() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    let link = EngineLink::start(engine.socket.clone());
    let first = link.publish(vec![vrf(0, "a"), vrf(1, "b")]);
    link.wait(first, LIMIT).await.unwrap();
    let second = link.publish(vec![vrf(0, "a"), vrf(2, "c")]);
    link.wait(second, LIMIT).await.unwrap();
    let recorded = engine.recorded.borrow().clone();
    let [(full, all), (part, changes)] = recorded.batches.as_slice() else { panic!("two batches") };
    assert!(full.full_sync && !part.full_sync);
    assert!(part.generation > full.generation);
    assert_eq!(all.upserts.len(), 2);
    assert_eq!(changes.upserts, [vrf(2, "c")]);
    assert_eq!(changes.deletes.len(), 1);
}

#[tokio::test]
async fn nothing_is_sent_before_there_is_a_wish() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    let link = EngineLink::start(engine.socket.clone());
    tokio::task::yield_now().await;
    assert!(engine.recorded.borrow().batches.is_empty());
    assert_eq!(link.desired(), None);
}

#[tokio::test]
async fn wishes_coalesce_while_the_engine_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    engine.set(|recorded| recorded.is_held = true);
    let link = EngineLink::start(engine.socket.clone());
    let mut last = link.publish(vec![vrf(0, "0")]);
    link.wait_connected(LIMIT).await.unwrap();
    for name in 1..100 {
        last = link.publish(vec![vrf(0, &name.to_string())]);
    }
    engine.set(|recorded| recorded.is_held = false);
    link.wait(last, LIMIT).await.unwrap();
    let recorded = engine.recorded.borrow().clone();
    assert!(recorded.batches.len() <= 3, "{} batches", recorded.batches.len());
    assert_eq!(recorded.batches.last().unwrap().1.upserts, [vrf(0, "99")]);
}

#[tokio::test]
async fn a_restarted_engine_gets_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("e.sock");
    let engine = FixtureEngine::start(&socket, 1);
    let link = EngineLink::start(socket.clone());
    let revision = link.publish(vec![vrf(0, "a"), vrf(1, "b")]);
    link.wait(revision, LIMIT).await.unwrap();
    engine.stop().await;
    let engine = FixtureEngine::start(&socket, 2);
    let recorded = engine.until("a full sync", |recorded| !recorded.batches.is_empty()).await;
    assert!(recorded.batches[0].0.full_sync);
    assert_eq!(recorded.batches[0].1.upserts.len(), 2);
    link.wait(revision, LIMIT).await.unwrap();
    assert_eq!(link.state().engine.unwrap().instance_id, 2);
}

#[tokio::test]
async fn a_restarted_control_goes_on_above_the_generation_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    engine.set(|recorded| recorded.generation = 41);
    let link = EngineLink::start(engine.socket.clone());
    let revision = link.publish(vec![vrf(0, "a")]);
    link.wait(revision, LIMIT).await.unwrap();
    assert_eq!(engine.recorded.borrow().generation, 42);
    assert!(engine.recorded.borrow().batches[0].0.full_sync);
}

#[tokio::test]
async fn a_refused_batch_fails_its_waiters_and_the_next_one_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    engine.set(|recorded| recorded.refusal = Some("vrf 0: bad name".to_owned()));
    let link = EngineLink::start(engine.socket.clone());
    let revision = link.publish(vec![vrf(0, "bad")]);
    let error = link.wait(revision, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("vrf 0: bad name"), "{error}");
    engine.set(|recorded| recorded.refusal = None);
    let revision = link.publish(vec![vrf(0, "good")]);
    link.wait(revision, LIMIT).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_away_is_named_with_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let link = EngineLink::start(folder.path().join("none.sock"));
    let revision = link.publish(vec![vrf(0, "a")]);
    let error = link.wait(revision, Duration::from_millis(300)).await.unwrap_err();
    let WaitError::Timeout { .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("none.sock does not exist"), "{error}");
}

#[tokio::test]
async fn ports_that_could_not_be_opened_are_known_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    let port_error = PortError { port: "default/web".into(), message: "no such device".into() };
    engine.set(|recorded| recorded.port_errors = vec![port_error]);
    let link = EngineLink::start(engine.socket.clone());
    let revision = link.publish(vec![vrf(0, "a")]);
    link.wait(revision, LIMIT).await.unwrap();
    assert_eq!(link.state().port_errors["default/web"], "no such device");
    // The engine tries again by itself: once all its ports are up, nothing is wrong any more.
    let started = std::time::Instant::now();
    while !link.state().port_errors.is_empty() {
        assert!(started.elapsed() < LIMIT, "{:?}", link.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
