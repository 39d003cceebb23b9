//! One connection to one engine instance, and what that instance is known to have.

use std::{mem::take, path::Path, sync::Arc, time::Duration};

use control_api::{
    connect::{ConnectError, HandshakeError, connect_engine, handshake},
    engine::{
        ApplyHeader, ApplyRequest, ListPortsRequest, ObjectBatch, PortError, PortStatus,
        apply_request::Part, engine_client::EngineClient,
    },
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::Connection;
use crate::compile::Objects;

/// The name that the engine logs.
const CLIENT: &str = "vrouter-control";

/// How long the engine may take for a batch: opening ports and waiting for each worker takes
/// milliseconds, a machine that is short of cores stalls for seconds.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Objects in one message: some 64 KiB of ports and routes.
const OBJECTS_PER_MESSAGE: usize = 512;

/// Bytes of objects in one message: a quarter of gRPC's 4 MiB. Address sets can be large.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A connection after its handshake.
pub(super) struct Session {
    client: EngineClient<Channel>,
    pub(super) connection: Connection,
    /// The generation in force on the engine.
    pub(super) generation: u64,
    /// What the engine has from this connection; `None` before the first full sync.
    known: Option<Arc<Objects>>,
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
        objects: &Arc<Objects>,
    ) -> Result<Option<Vec<PortError>>, SessionError> {
        let batch = objects.since(self.known.as_deref().unwrap_or(&Objects::default()));
        if self.known.is_some() && batch == ObjectBatch::default() {
            return Ok(None);
        }
        let generation = self.generation + 1;
        let header = ApplyHeader { generation, full_sync: self.known.is_none() };
        let messages = messages(header, batch);
        let call = self.client.apply(tokio_stream::iter(messages));
        let answer = timeout(APPLY_TIMEOUT, call)
            .await
            .map_err(|_| SessionError::Silent { seconds: APPLY_TIMEOUT.as_secs() })?
            .map_err(|status| SessionError::Status(Box::new(status)))?
            .into_inner();
        self.generation = answer.generation.max(generation);
        self.known = Some(Arc::clone(objects));
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
fn messages(header: ApplyHeader, batch: ObjectBatch) -> Vec<ApplyRequest> {
    let message = |part| ApplyRequest { part: Some(part) };
    let mut messages = vec![message(Part::Header(header))];
    let mut portion = (0, ObjectBatch::default());
    for object in batch.upserts {
        let bytes = object.encoded_len();
        let is_full =
            portion.1.upserts.len() == OBJECTS_PER_MESSAGE || portion.0 + bytes > MESSAGE_BYTES_MAX;
        if is_full && portion.0 > 0 {
            messages.push(message(Part::Objects(take(&mut portion).1)));
        }
        portion.0 += bytes;
        portion.1.upserts.push(object);
    }
    messages.push(message(Part::Objects(portion.1)));
    messages.extend(batch.deletes.chunks(OBJECTS_PER_MESSAGE).map(|deletes| {
        let (upserts, deletes) = (Vec::new(), deletes.to_vec());
        message(Part::Objects(ObjectBatch { upserts, deletes }))
    }));
    messages
}

#[cfg(test)]
mod tests {
    use control_api::engine::{AddressSet, Object, ObjectKey, object::Kind, object_key};

    use super::*;

    #[test]
    fn a_batch_of_large_sets_is_cut_into_messages_that_grpc_takes() {
        let address_set = |id: u64, count: usize| {
            let ipv6 = vec![0; 16 * count];
            Object {
                kind: Some(Kind::AddressSet(AddressSet { id, ipv6, ..AddressSet::default() })),
            }
        };
        // The last one alone is beyond what a message should have: it travels by itself.
        let upserts: Vec<_> =
            (1..2000).map(|id| address_set(id, 1000)).chain([address_set(2000, 1 << 17)]).collect();
        let deletes = vec![ObjectKey { kind: Some(object_key::Kind::Vrf(7)) }; 600];
        let batch = ObjectBatch { upserts: upserts.clone(), deletes };
        let messages = messages(ApplyHeader::default(), batch);
        let (mut sent, mut removals) = (Vec::new(), 0);
        for message in &messages[1..] {
            let Some(Part::Objects(part)) = message.part.clone() else { panic!("objects") };
            assert!(message.encoded_len() <= 2 * MESSAGE_BYTES_MAX + 1024);
            assert!(part.upserts.len() == 1 || message.encoded_len() <= MESSAGE_BYTES_MAX + 4096);
            sent.extend(part.upserts);
            removals += part.deletes.len();
        }
        assert!(sent == upserts && removals == 600);
    }
}
