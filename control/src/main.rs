//! `vrouter-control`: knows the cluster, programs the engine, serves the CNI plugin.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use control::{
    config::{CONFIG_PATH, Config},
    daemon::Daemon,
    metrics,
    server::ControlService,
    watch::Source,
};
use control_api::{
    listen::{SocketLease, reflection_service},
    node::control_server::ControlServer,
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a node's control process: reads the cluster from a folder of manifests, programs the engine
/// `vrouter`, gives pods their addresses and serves the CNI plugin `vrouter-cni`.
///
/// It may be stopped and started at any moment: the engine goes on forwarding.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  vrouter-control --check                 says what is wrong with the configuration
  vrouter-control                         runs; stop it with Ctrl-C or SIGTERM
  vrouter-control --cleanup               before uninstalling: removes what it made on this node

The log goes to standard error; RUST_LOG=debug makes it longer. `vrctl status` shows the state.
Every key of the configuration is described in docs/vrouter.toml."
)]
struct Arguments {
    /// The configuration, shared with the engine.
    #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,

    /// Checks the configuration and the manifests, and changes nothing.
    #[arg(long, conflicts_with = "cleanup")]
    check: bool,

    /// Removes all attachments, their interfaces and the host port from this node.
    #[arg(long)]
    cleanup: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal);
    log.with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        return check(&config);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if arguments.cleanup { clean_up(config).await } else { serve(config).await }
    });
    // Verbs under way are finished or undone by the next start; nothing waits for them here.
    runtime.shutdown_background();
    result
}

/// Says what is wrong with the manifests; fails if this node could not run with them.
#[expect(clippy::print_stdout, reason = "the answer that was asked for")]
fn check(config: &Config) -> Result<()> {
    let (cluster, problems) = control::manifests::load_folder(&config.manifests);
    for problem in &problems {
        println!("{problem}");
    }
    for peer in control::compile::unreachable_peers(&cluster, &config.node_name) {
        println!("{peer}");
    }
    control::compile::replay::replay_objects(&cluster, &config.node_name)?;
    anyhow::ensure!(problems.is_empty(), "{} problems with the manifests", problems.len());
    println!(
        "the configuration is fine: node {}, {} nodes, {} pods",
        config.node_name,
        cluster.nodes.len(),
        cluster.pods.len()
    );
    Ok(())
}

async fn serve(config: Config) -> Result<()> {
    let mut source = Source::new(&config.manifests, &config.state_dir);
    let (socket, metrics_address) = (config.socket.clone(), config.metrics);
    // First of all: a second control process must not touch anything.
    let (lease, incoming) = SocketLease::listen(&socket)?;
    let daemon = Arc::new(Daemon::start(config).await?);
    let outcome = daemon.reconcile().await.context("cannot take over what was there before")?;
    tracing::info!(?outcome, "reconciled");
    if let Err(error) = daemon.reload(&mut source).await {
        tracing::error!(%error, "nothing is sent to the engine until this is mended");
    }
    if let Some(address) = metrics_address {
        tokio::spawn(metrics::serve(Arc::clone(&daemon), address).await?);
    }
    let following = Arc::clone(&daemon);
    tokio::spawn(async move { following.follow(source).await });
    let service = tonic::transport::Server::builder()
        .add_service(reflection_service()?)
        .add_service(ControlServer::new(ControlService(daemon)));
    tracing::info!(socket = %socket.display(), "serving");
    tokio::select! {
        served = service.serve_with_incoming(incoming) => served?,
        name = stop_signal() => tracing::info!(signal = name?, "stopping; the engine goes on"),
    }
    drop(lease);
    Ok(())
}

async fn clean_up(config: Config) -> Result<()> {
    let (_lease, _incoming) = SocketLease::listen(&config.socket)?;
    let daemon = Daemon::start(config).await?;
    let removed = daemon.clean_up().await?;
    tracing::info!(?removed, "cleaned up");
    Ok(())
}

async fn stop_signal() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
