//! The programming interface: gRPC calls, turned into calls on the engine's thread.
//!
//! Nothing is decided here. A message that is not possible is refused by the library, which names
//! the object and the field; this module gives the error its gRPC code.

mod apply;

use std::{ops::ControlFlow, pin::Pin};

use control_api::{
    PROTOCOL_MAJOR, PROTOCOL_MINOR,
    engine::{
        ApplyRequest, ApplyResponse, DropExample, DropStatus, ExplainRequest, ExplainResponse,
        FlowStatus, GetStatusRequest, HandshakeRequest, HandshakeResponse, ListDropExamplesRequest,
        ListDropsRequest, ListFlowsRequest, ListNeighboursRequest, ListPortsRequest,
        ListRoutesRequest, ListTunnelsRequest, ListWorkersRequest, NeighbourStatus, PortStatus,
        RouteStatus, TunnelStatus, WorkerStatus, engine_server,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    engine_thread::{CallError, EngineCaller},
    node::{Node, QueryError},
};

/// Rows of a stream that wait for a slow client at most; the engine's thread never waits for one.
const ROWS_WAITING_MAX: usize = 256;

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EngineService {
    engine: EngineCaller<Node>,
}

impl EngineService {
    /// Serves the engine behind `engine`.
    pub(crate) fn new(engine: EngineCaller<Node>) -> Self {
        Self { engine }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.engine.call(question).await.map_err(call_failed)
    }

    /// Answers with a list that is made at once: it is bounded by the ports, tunnels and workers of
    /// a node.
    async fn list<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Node) -> Vec<T> + Send + 'static,
    ) -> Result<Response<Rows<T>>, Status> {
        let rows = self.ask(question).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(rows.into_iter().map(Ok)))))
    }
}

type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl engine_server::Engine for EngineService {
    type ListPortsStream = Rows<PortStatus>;
    type ListRoutesStream = Rows<RouteStatus>;
    type ListNeighboursStream = Rows<NeighbourStatus>;
    type ListTunnelsStream = Rows<TunnelStatus>;
    type ListFlowsStream = Rows<FlowStatus>;
    type ListDropsStream = Rows<DropStatus>;
    type ListWorkersStream = Rows<WorkerStatus>;
    type ListDropExamplesStream = Rows<DropExample>;

    async fn handshake(
        &self,
        request: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, Status> {
        let HandshakeRequest { client, protocol_major, protocol_minor } = request.into_inner();
        if protocol_major != PROTOCOL_MAJOR {
            tracing::warn!(client, protocol_major, protocol_minor, "refused another protocol");
            return Err(Status::failed_precondition(format!(
                "{client} speaks protocol {protocol_major}.{protocol_minor}, this engine \
                 {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}: install both from one release"
            )));
        }
        tracing::debug!(client, protocol_minor, "handshake");
        let (instance_id, generation) =
            self.ask(|node| (node.instance_id(), node.generation())).await?;
        Ok(Response::new(HandshakeResponse {
            protocol_major: PROTOCOL_MAJOR,
            protocol_minor: PROTOCOL_MINOR,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id,
            generation,
        }))
    }

    async fn apply(
        &self,
        request: Request<Streaming<ApplyRequest>>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let batch = apply::collect(request.into_inner()).await?;
        let applied = self.ask(move |node| node.apply(batch)).await?;
        applied.map(Response::new).map_err(|error| apply::failed(&error))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<control_api::engine::Status>, Status> {
        self.ask(Node::status).await.map(Response::new)
    }

    async fn list_ports(
        &self,
        _: Request<ListPortsRequest>,
    ) -> Result<Response<Self::ListPortsStream>, Status> {
        self.list(Node::ports).await
    }

    async fn list_routes(
        &self,
        request: Request<ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let query = request.into_inner();
        let routes =
            self.ask(move |node| node.routes(&query)).await?.map_err(|error| refused(&error))?;
        Ok(stream(move |sink| routes.visit(sink)))
    }

    async fn list_neighbours(
        &self,
        _: Request<ListNeighboursRequest>,
    ) -> Result<Response<Self::ListNeighboursStream>, Status> {
        self.list(Node::neighbours).await
    }

    async fn list_tunnels(
        &self,
        _: Request<ListTunnelsRequest>,
    ) -> Result<Response<Self::ListTunnelsStream>, Status> {
        self.list(Node::tunnels).await
    }

    async fn list_flows(
        &self,
        request: Request<ListFlowsRequest>,
    ) -> Result<Response<Self::ListFlowsStream>, Status> {
        let query = request.into_inner();
        let flows =
            self.ask(move |node| node.flows(&query)).await?.map_err(|error| refused(&error))?;
        Ok(stream(move |sink| flows.visit(sink)))
    }

    async fn list_drops(
        &self,
        request: Request<ListDropsRequest>,
    ) -> Result<Response<Self::ListDropsStream>, Status> {
        let all = request.into_inner().all;
        self.list(move |node| node.drops(all)).await
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<Self::ListWorkersStream>, Status> {
        self.list(Node::workers).await
    }

    async fn list_drop_examples(
        &self,
        request: Request<ListDropExamplesRequest>,
    ) -> Result<Response<Self::ListDropExamplesStream>, Status> {
        let query = request.into_inner();
        let examples = self
            .ask(move |node| node.drop_examples(&query))
            .await?
            .map_err(|error| refused(&error))?;
        Ok(Response::new(Box::pin(tokio_stream::iter(examples.into_iter().map(Ok)))))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let request = request.into_inner();
        let judging =
            self.ask(move |node| node.explain(request)).await?.map_err(|error| refused(&error))?;
        let answer = tokio::task::spawn_blocking(|| judging.answer()).await;
        let answer = answer.map_err(|error| Status::internal(error.to_string()))?;
        answer.map(Response::new).map_err(|error| refused(&error))
    }
}

/// Takes the rows of a long list, until it breaks.
type RowSink<'a, T> = dyn FnMut(T) -> ControlFlow<()> + 'a;

/// Answers with a list that may be long: it is made on a thread of its own, as fast as the client
/// takes it.
fn stream<T: Send + 'static>(
    visit: impl FnOnce(&mut RowSink<'_, T>) + Send + 'static,
) -> Response<Rows<T>> {
    let (rows, waiting) = mpsc::channel(ROWS_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        visit(&mut |row| match rows.blocking_send(Ok(row)) {
            Ok(()) => ControlFlow::Continue(()),
            // The client went away.
            Err(_) => ControlFlow::Break(()),
        });
    });
    Response::new(Box::pin(ReceiverStream::new(waiting)))
}

fn call_failed(error: CallError) -> Status {
    match error {
        // Both pass: a caller that is told otherwise takes it for a refusal of what it asked.
        CallError::Busy | CallError::Stopped => Status::unavailable(error.to_string()),
    }
}

fn refused(error: &QueryError) -> Status {
    match error {
        QueryError::AddressLength { .. }
        | QueryError::OutOfRange { .. }
        | QueryError::TooMany { .. }
        | QueryError::TwoFamilies { .. } => Status::invalid_argument(error.to_string()),
        QueryError::NoSuchPort { .. }
        | QueryError::NoSuchReason { .. }
        | QueryError::NoSuchVrf { .. } => Status::not_found(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_engine_is_unavailable_and_refuses_nothing() {
        assert_eq!(call_failed(CallError::Busy).code(), tonic::Code::Unavailable);
    }
}
