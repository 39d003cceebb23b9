//! The engine's life: start everything, serve until told to stop, stop everything in order.
//!
//! ```text
//! engine thread   Node: Engine, underlay, flows          (no runtime)
//! main thread     tokio: gRPC on the unix socket, metrics over HTTP, signals
//! ```

use std::{future::Future, thread::JoinHandle, time::Duration};

use anyhow::{Context, anyhow};
use control_api::{
    engine::engine_server::EngineServer,
    listen::{SocketLease, reflection_service},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task,
};
use tonic::transport::{self, Server};

use crate::{
    engine_thread::EngineCaller,
    metrics,
    node::Node,
    notify::{self, State},
    service::EngineService,
    settings::Settings,
};

/// Between two looks at ports, next hops and workers: short beside what the watchdog calls a stall.
const TICK_INTERVAL: Duration = Duration::from_millis(5);

/// How long a connection may go on after the engine was told to stop.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Runs the engine until a signal says stop.
///
/// # Errors
///
/// Fails if something that the settings ask for is not to be had: socket, memory, threads, CPUs,
/// the metrics' address.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Operators' questions, a batch now and then: the cores are for the workers.
        .worker_threads(1)
        .thread_name("api")
        .enable_all()
        .build()
        .context("cannot start the runtime of the programming interface")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let (stop, is_stopping) = watch::channel(false);
    stop_on_signal(&stop)?;
    // First of all: whoever finds the socket taken must not touch ports that another engine has.
    let (lease, connections) =
        SocketLease::listen(&settings.socket).context("cannot serve the programming interface")?;
    let metrics = match settings.metrics.0 {
        Some(address) => Some(metrics::Server::listen(address).await?),
        None => None,
    };
    let node = Node::start(settings)?;
    let (engine, thread) = EngineCaller::start(node, TICK_INTERVAL, Node::tick)
        .context("cannot start the engine's thread")?;
    if let Some(server) = metrics {
        let address = server.address().context("cannot serve metrics")?;
        tracing::info!(%address, "metrics");
        tokio::spawn(serve_metrics(server, engine.clone(), stopped(is_stopping.clone())));
    }
    let api = EngineServer::new(EngineService::new(engine.clone()))
        .max_decoding_message_size(control_api::policy::MESSAGE_BYTES_MAX);
    let reflection = reflection_service().context("cannot describe the programming interface")?;
    let server = Server::builder().add_service(reflection).add_service(api);
    let server = server.serve_with_incoming_shutdown(connections, stopped(is_stopping.clone()));
    let server = tokio::spawn(async move {
        let outcome = server.await;
        // An engine that nobody can reach any more has no reason to stay.
        let _ = stop.send(true);
        outcome
    });

    tracing::info!(socket = %lease.path().display(), version = env!("CARGO_PKG_VERSION"), "ready");
    tell_service_manager(State::Ready);
    stopped(is_stopping).await;
    tracing::info!("stopping");
    tell_service_manager(State::Stopping);
    let outcome = say_goodbye(server).await;
    let stopped = task::spawn_blocking(move || stop_engine(&engine, thread)).await;
    // The socket goes last: a successor starts when all ports are free.
    drop(lease);
    stopped.context("stopping the engine panicked")??;
    outcome
}

/// Waits for the calls under way; clients that hold their connection open do not hold the engine.
async fn say_goodbye(
    mut server: task::JoinHandle<Result<(), transport::Error>>,
) -> anyhow::Result<()> {
    let Ok(ended) = tokio::time::timeout(GOODBYE_MAX, &mut server).await else {
        server.abort();
        return Ok(());
    };
    let outcome = ended.context("the server of the programming interface panicked")?;
    outcome.context("the programming interface cannot be served any more")
}

async fn serve_metrics(
    server: metrics::Server,
    engine: EngineCaller<Node>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let report = move || {
        let engine = engine.clone();
        async move { engine.call(Node::report).await.ok() }
    };
    if let Err(error) = server.serve(report, stop).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

/// Ends the engine's thread, then closes ports and workers.
fn stop_engine(engine: &EngineCaller<Node>, thread: JoinHandle<Node>) -> anyhow::Result<()> {
    engine.stop();
    let node = thread.join().map_err(|_| anyhow!("the engine's thread panicked"))?;
    node.stop()
}

/// Turns `stop` true at SIGTERM or SIGINT.
fn stop_on_signal(stop: &watch::Sender<bool>) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot follow signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = stop.send(true);
            }
        });
    }
    Ok(())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error would mean that nobody can tell any more; then it is time to stop, too.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

fn tell_service_manager(state: State) {
    if let Err(error) = notify::notify(state) {
        tracing::warn!(%error, ?state, "systemd was not told");
    }
}
