//! The client's side of a unix socket: one connection, one peer process.
//!
//! A channel made here never reconnects by itself. When the peer goes, every later call fails, and
//! whoever holds the channel connects and shakes hands anew: so an incremental batch can never
//! reach an engine that has lost the state it builds on.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    PROTOCOL_MAJOR, PROTOCOL_MINOR,
    engine::{HandshakeRequest, HandshakeResponse, engine_client::EngineClient},
    node::control_client::ControlClient,
};

/// How long a connection and its handshake may take: a peer that is alive answers in
/// milliseconds, a busy machine stalls for seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the engine listens unless told otherwise.
pub const ENGINE_SOCKET: &str = "/run/vrouter/engine.sock";

/// Where control listens unless told otherwise.
pub const CONTROL_SOCKET: &str = "/run/vrouter/control.sock";

/// Why a peer on a unix socket cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ConnectError {
    #[error("{path} does not exist: is {program} running, and is its socket configured there?")]
    NoSocket { path: PathBuf, program: &'static str },

    #[error("nobody listens on {path}: {program} has stopped; start it again")]
    NobodyListens { path: PathBuf, program: &'static str },

    #[error("no permission to open {path}: it belongs to root; run this as root")]
    NotPermitted { path: PathBuf },

    #[error("cannot connect to {program} on {path}")]
    Connect {
        path: PathBuf,
        program: &'static str,
        #[source]
        source: io::Error,
    },

    #[error("{program} on {path} accepted the connection but does not speak gRPC")]
    Transport {
        path: PathBuf,
        program: &'static str,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Why the engine and this program cannot work together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum HandshakeError {
    #[error(
        "the engine speaks protocol {engine_major}.{engine_minor}, this program {major}.{minor}: \
         install vrouter, vrouter-control and vrctl from one release"
    )]
    ProtocolMismatch { engine_major: u32, engine_minor: u32, major: u32, minor: u32 },

    #[error("the engine did not answer the handshake within {seconds} s; see `vrctl workers`")]
    Timeout { seconds: u64 },

    #[error("the engine refused the handshake")]
    Refused(#[source] Box<tonic::Status>),
}

/// Connects to the engine's socket.
///
/// # Errors
///
/// Fails if there is no socket, nobody listens, or this user may not open it.
pub async fn connect_engine(path: &Path) -> Result<EngineClient<Channel>, ConnectError> {
    Ok(EngineClient::new(connect(path, "vrouter").await?))
}

/// Connects to control's socket.
///
/// # Errors
///
/// As [`connect_engine`].
pub async fn connect_control(path: &Path) -> Result<ControlClient<Channel>, ConnectError> {
    Ok(ControlClient::new(connect(path, "vrouter-control").await?))
}

/// Tells the engine who asks, and checks that both sides speak the same protocol.
///
/// # Errors
///
/// Fails if the major versions differ, or the engine refuses or does not answer in time.
pub async fn handshake(
    engine: &mut EngineClient<Channel>,
    client: &str,
) -> Result<HandshakeResponse, HandshakeError> {
    let request = HandshakeRequest {
        client: client.to_owned(),
        protocol_major: PROTOCOL_MAJOR,
        protocol_minor: PROTOCOL_MINOR,
    };
    let answer = tokio::time::timeout(CONNECT_TIMEOUT, engine.handshake(request)).await;
    let response = answer
        .map_err(|_| HandshakeError::Timeout { seconds: CONNECT_TIMEOUT.as_secs() })?
        .map_err(|status| HandshakeError::Refused(Box::new(status)))?
        .into_inner();
    if response.protocol_major != PROTOCOL_MAJOR {
        return Err(HandshakeError::ProtocolMismatch {
            engine_major: response.protocol_major,
            engine_minor: response.protocol_minor,
            major: PROTOCOL_MAJOR,
            minor: PROTOCOL_MINOR,
        });
    }
    Ok(response)
}

/// Opens the socket and puts a gRPC channel on exactly this connection.
async fn connect(path: &Path, program: &'static str) -> Result<Channel, ConnectError> {
    let owned = || path.to_owned();
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ConnectError::NoSocket { path: owned(), program },
        io::ErrorKind::ConnectionRefused => ConnectError::NobodyListens { path: owned(), program },
        io::ErrorKind::PermissionDenied => ConnectError::NotPermitted { path: owned() },
        _ => ConnectError::Connect { path: owned(), program, source },
    })?;
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        }
    });
    // The address only fills the `:authority` of the requests; the connector ignores it.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport { path: owned(), program, source })
}
