//! The two processes that vrctl asks, and how their failures are told.

use std::{future::Future, time::Duration};

use control_api::{
    connect::{HandshakeError, connect_control, connect_engine, handshake},
    engine::{HandshakeResponse, engine_client::EngineClient},
    node::control_client::ControlClient,
};
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use crate::{cli::PeerOptions, exit::Failure};

/// Bytes of one message at most. Rows are small and streamed, so this is only a guard.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Who is asked: its name for people, and its unit for `systemctl`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    name: &'static str,
    unit: &'static str,
}

/// The engine.
pub(crate) const ENGINE: Peer = Peer { name: "the engine", unit: "vrouter" };
/// The control process.
pub(crate) const CONTROL: Peer = Peer { name: "control", unit: "vrouter-control" };

impl Peer {
    /// What a call's failure means to the operator.
    pub(crate) fn failure(self, status: Status) -> Failure {
        let source = Box::new(status);
        match source.code() {
            // tonic reports a broken connection as `Unavailable` or `Unknown` with a cause.
            Code::Unavailable => Failure::Gone { peer: self.name, unit: self.unit, source },
            Code::Unknown if std::error::Error::source(&*source).is_some() => {
                Failure::Gone { peer: self.name, unit: self.unit, source }
            }
            _ => Failure::Refused { peer: self.name, status: source },
        }
    }
}

/// Where both peers are, and how long they may take.
#[derive(Debug)]
pub(crate) struct Peers {
    options: PeerOptions,
}

impl Peers {
    /// The peers that the command line names.
    pub(crate) fn new(options: PeerOptions) -> Self {
        Self { options }
    }

    /// Connects to the engine and shakes hands.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be reached, or speaks another protocol.
    pub(crate) async fn engine(
        &self,
    ) -> Result<(EngineClient<Channel>, HandshakeResponse), Failure> {
        let connected = connect_engine(&self.options.socket).await;
        let mut client = connected
            .map_err(|source| Failure::Unreachable {
                peer: ENGINE.name,
                unit: ENGINE.unit,
                source,
            })?
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = handshake(&mut client, "vrctl").await.map_err(|error| match error {
            HandshakeError::Refused(status) => ENGINE.failure(*status),
            other => Failure::Handshake(other),
        })?;
        Ok((client, response))
    }

    /// Connects to control.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be reached.
    pub(crate) async fn control(&self) -> Result<ControlClient<Channel>, Failure> {
        let connected = connect_control(&self.options.control_socket).await;
        let client = connected.map_err(|source| Failure::Unreachable {
            peer: CONTROL.name,
            unit: CONTROL.unit,
            source,
        })?;
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Waits for one answer, as long as the operator allows.
    ///
    /// # Errors
    ///
    /// Fails with what the peer says, or when it says nothing in time.
    pub(crate) async fn answer<T>(
        &self,
        peer: Peer,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failure> {
        let seconds = self.options.timeout;
        tokio::time::timeout(Duration::from_secs(seconds), call)
            .await
            .map_err(|_| Failure::Timeout { peer: peer.name, seconds })?
            .map_err(|status| peer.failure(status))
    }

    /// Collects a stream of at most a few thousand rows.
    ///
    /// # Errors
    ///
    /// As [`Self::answer`]; each row may take as long.
    pub(crate) async fn rows<T>(
        &self,
        peer: Peer,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Vec<T>, Failure> {
        let mut stream = self.answer(peer, call).await?.into_inner();
        let mut rows = Vec::new();
        while let Some(row) = self.answer(peer, stream.message()).await? {
            rows.push(row);
        }
        Ok(rows)
    }
}
