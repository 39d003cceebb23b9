//! One connection to one engine instance, and what that instance is known to have.

use std::{path::Path, time::Duration};

use control_api::{
    connect::{ConnectError, HandshakeError, connect_engine, handshake},
    engine::{
        ApplyHeader, ApplyRequest, ListPortsRequest, Object, ObjectBatch, PortError, PortStatus,
        apply_request::Part, engine_client::EngineClient,
    },
};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::Connection;
use crate::compile::difference::difference;

/// The name that the engine logs.
const CLIENT: &str = "vrouter-control";

/// How long the engine may take for a batch: opening ports and waiting for each worker takes
/// milliseconds, a machine that is short of cores stalls for seconds.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Objects in one message: some 64 KiB, far below gRPC's 4 MiB.
const OBJECTS_PER_MESSAGE: usize = 512;

/// A connection after its handshake.
pub(super) struct Session {
    client: EngineClient<Channel>,
    pub(super) connection: Connection,
    /// The generation in force on the engine.
    pub(super) generation: u64,
    /// What the engine has from this connection; `None` before the first full sync.
    known: Option<Vec<Object>>,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum SessionError {
    Connect(ConnectError),
    Handshake(HandshakeError),
    Status(Box<tonic::Status>),
    Silent { seconds: u64 },
    Restarted,
}

impl Session {
    pub(super) async fn connect(socket: &Path) -> Result<Self, SessionError> {
        let mut client = connect_engine(socket).await.map_err(SessionError::Connect)?;
        let answer = handshake(&mut client, CLIENT).await.map_err(SessionError::Handshake)?;
        let connection =
            Connection { instance_id: answer.instance_id, engine_version: answer.engine_version };
        Ok(Self { client, connection, generation: answer.generation, known: None })
    }

    /// Brings the engine to `objects`: by a full sync the first time, by the difference later.
    ///
    /// Returns the ports that could not be opened; `None` if there was nothing to send.
    pub(super) async fn apply(
        &mut self,
        objects: &[Object],
    ) -> Result<Option<Vec<PortError>>, SessionError> {
        let batch = difference(self.known.as_deref().unwrap_or_default(), objects);
        if self.known.is_some() && batch == ObjectBatch::default() {
            return Ok(None);
        }
        let generation = self.generation + 1;
        let header = ApplyHeader { generation, full_sync: self.known.is_none() };
        let messages = messages(header, &batch);
        let call = self.client.apply(tokio_stream::iter(messages));
        let answer = timeout(APPLY_TIMEOUT, call)
            .await
            .map_err(|_| SessionError::Silent { seconds: APPLY_TIMEOUT.as_secs() })?
            .map_err(|status| SessionError::Status(Box::new(status)))?
            .into_inner();
        self.generation = answer.generation.max(generation);
        self.known = Some(objects.to_vec());
        tracing::debug!(generation, config_version = answer.config_version, "engine acknowledged");
        Ok(Some(answer.port_errors))
    }

    /// The ports that are not open now: the engine tries them again by itself.
    pub(super) async fn port_errors(&mut self) -> Result<Vec<PortError>, SessionError> {
        let failed = |status| SessionError::Status(Box::new(status));
        let call = self.client.list_ports(ListPortsRequest {});
        let answer = timeout(APPLY_TIMEOUT, call)
            .await
            .map_err(|_| SessionError::Silent { seconds: APPLY_TIMEOUT.as_secs() })?;
        let mut ports = answer.map_err(failed)?.into_inner();
        let mut errors = Vec::new();
        while let Some(status) = ports.message().await.map_err(failed)? {
            errors.extend(as_error(status));
        }
        Ok(errors)
    }

    /// Makes sure that the same engine is still there.
    pub(super) async fn heartbeat(&mut self) -> Result<(), SessionError> {
        let answer = handshake(&mut self.client, CLIENT).await.map_err(SessionError::Handshake)?;
        if answer.instance_id == self.connection.instance_id {
            Ok(())
        } else {
            Err(SessionError::Restarted)
        }
    }
}

/// A port that is not open, and why.
fn as_error(status: PortStatus) -> Option<PortError> {
    (status.state != "up").then_some(PortError { port: status.name, message: status.detail })
}

/// The messages of one batch: the header, then the objects in portions.
fn messages(header: ApplyHeader, batch: &ObjectBatch) -> Vec<ApplyRequest> {
    let message = |part| ApplyRequest { part: Some(part) };
    let objects = |upserts, deletes| message(Part::Objects(ObjectBatch { upserts, deletes }));
    let mut messages = vec![message(Part::Header(header))];
    messages.extend(
        batch.upserts.chunks(OBJECTS_PER_MESSAGE).map(|part| objects(part.to_vec(), Vec::new())),
    );
    messages.extend(
        batch.deletes.chunks(OBJECTS_PER_MESSAGE).map(|part| objects(Vec::new(), part.to_vec())),
    );
    messages
}
