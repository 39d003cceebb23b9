//! The far side of the engine's protocol: takes batches, remembers them, and does as it is told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use control_api::{
    PROTOCOL_MAJOR, PROTOCOL_MINOR,
    engine::{
        ApplyHeader, ApplyRequest, ApplyResponse, DropExample, DropStatus, ExplainRequest,
        ExplainResponse, FlowStatus, GetStatusRequest, HandshakeRequest, HandshakeResponse,
        ListDropExamplesRequest, ListDropsRequest, ListFlowsRequest, ListNeighboursRequest,
        ListPortsRequest, ListRoutesRequest, ListTunnelsRequest, ListWorkersRequest,
        NeighbourStatus, Object, ObjectBatch, Port, PortError, PortStatus, RouteStatus, Status,
        TunnelStatus, WorkerStatus,
        apply_request::Part,
        engine_server::{Engine, EngineServer},
        object::Kind,
        object_key,
    },
    listen::SocketLease,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Streaming};

/// What the engine was sent, and how it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) batches: Vec<(ApplyHeader, ObjectBatch)>,
    pub(crate) ports: BTreeMap<String, Port>,
    pub(crate) port_errors: Vec<PortError>,
    pub(crate) refusal: Option<String>,
    /// Answers to `Apply` wait while this is set.
    pub(crate) is_held: bool,
    pub(crate) generation: u64,
}

/// An engine that can be stopped like a killed process: its connections break.
pub(crate) struct FixtureEngine {
    pub(crate) recorded: watch::Sender<Recorded>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    pub(crate) socket: PathBuf,
}

struct Service {
    instance_id: u64,
    recorded: watch::Sender<Recorded>,
    /// One batch at a time, as the engine does it.
    turn: Arc<Mutex<()>>,
}

impl FixtureEngine {
    pub(crate) fn start(socket: &Path, instance_id: u64) -> Self {
        let recorded = watch::Sender::new(Recorded::default());
        let (lease, incoming) = SocketLease::listen(socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = Service { instance_id, recorded: recorded.clone(), turn: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(EngineServer::new(service))
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = stopped.await;
            });
        let task = tokio::spawn(async move {
            server.await.unwrap();
            drop(lease);
        });
        Self { recorded, stop: Some(stop), task, socket: socket.to_owned() }
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap();
    }

    /// Waits until what was recorded fulfils a condition.
    pub(crate) async fn until(
        &self,
        what: &str,
        condition: impl FnMut(&Recorded) -> bool,
    ) -> Recorded {
        let mut receiver = self.recorded.subscribe();
        let waited = tokio::time::timeout(Duration::from_mins(1), receiver.wait_for(condition));
        let Ok(recorded) = waited.await else {
            panic!("not within a minute: {what}; {:#?}", self.recorded.borrow())
        };
        recorded.unwrap().clone()
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Recorded)) {
        self.recorded.send_modify(change);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

fn answers<T: Send + 'static>(items: Vec<T>) -> Response<Answers<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl Engine for Service {
    async fn handshake(
        &self,
        _: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, tonic::Status> {
        Ok(Response::new(HandshakeResponse {
            protocol_major: PROTOCOL_MAJOR,
            protocol_minor: PROTOCOL_MINOR,
            engine_version: "fixture".to_owned(),
            instance_id: self.instance_id,
            generation: self.recorded.borrow().generation,
        }))
    }

    async fn apply(
        &self,
        request: Request<Streaming<ApplyRequest>>,
    ) -> Result<Response<ApplyResponse>, tonic::Status> {
        let mut stream = request.into_inner();
        let Some(Part::Header(header)) = stream.next().await.unwrap()?.part else {
            return Err(tonic::Status::invalid_argument("the header comes first"));
        };
        let mut batch = ObjectBatch::default();
        while let Some(message) = stream.next().await {
            let Some(Part::Objects(part)) = message?.part else {
                return Err(tonic::Status::invalid_argument("one header only"));
            };
            batch.upserts.extend(part.upserts);
            batch.deletes.extend(part.deletes);
        }
        let mut receiver = self.recorded.subscribe();
        receiver.wait_for(|recorded| !recorded.is_held).await.unwrap();
        let _turn = self.turn.lock().unwrap();
        let before = self.recorded.borrow().clone();
        if let Some(refusal) = before.refusal {
            return Err(tonic::Status::invalid_argument(refusal));
        }
        if header.generation <= before.generation {
            return Err(tonic::Status::failed_precondition("an old generation"));
        }
        self.recorded.send_modify(|recorded| recorded.take(header, batch));
        Ok(Response::new(ApplyResponse {
            generation: header.generation,
            config_version: header.generation,
            port_errors: before.port_errors,
        }))
    }

    type ListPortsStream = Answers<PortStatus>;
    async fn list_ports(
        &self,
        _: Request<ListPortsRequest>,
    ) -> Result<Response<Self::ListPortsStream>, tonic::Status> {
        let Recorded { ports, port_errors, .. } = self.recorded.borrow().clone();
        let status = |port: Port| {
            let error = port_errors.iter().find(|error| error.port == port.name);
            PortStatus {
                name: port.name,
                addresses: port.addresses,
                state: if error.is_some() { "down" } else { "up" }.to_owned(),
                detail: error.map(|error| error.message.clone()).unwrap_or_default(),
                ..PortStatus::default()
            }
        };
        Ok(answers(ports.into_values().map(status).collect()))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<Status>, tonic::Status> {
        Ok(Response::new(Status { instance_id: self.instance_id, ..Status::default() }))
    }

    type ListRoutesStream = Answers<RouteStatus>;
    async fn list_routes(
        &self,
        _: Request<ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListNeighboursStream = Answers<NeighbourStatus>;
    async fn list_neighbours(
        &self,
        _: Request<ListNeighboursRequest>,
    ) -> Result<Response<Self::ListNeighboursStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListTunnelsStream = Answers<TunnelStatus>;
    async fn list_tunnels(
        &self,
        _: Request<ListTunnelsRequest>,
    ) -> Result<Response<Self::ListTunnelsStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListFlowsStream = Answers<FlowStatus>;
    async fn list_flows(
        &self,
        _: Request<ListFlowsRequest>,
    ) -> Result<Response<Self::ListFlowsStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListDropsStream = Answers<DropStatus>;
    async fn list_drops(
        &self,
        _: Request<ListDropsRequest>,
    ) -> Result<Response<Self::ListDropsStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListDropExamplesStream = Answers<DropExample>;
    async fn list_drop_examples(
        &self,
        _: Request<ListDropExamplesRequest>,
    ) -> Result<Response<Self::ListDropExamplesStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    type ListWorkersStream = Answers<WorkerStatus>;
    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<Self::ListWorkersStream>, tonic::Status> {
        Ok(answers(Vec::new()))
    }

    async fn explain(
        &self,
        _: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("the fixture judges nothing"))
    }
}

impl Recorded {
    fn take(&mut self, header: ApplyHeader, batch: ObjectBatch) {
        if header.full_sync {
            self.ports.clear();
        }
        for object in &batch.upserts {
            if let Object { kind: Some(Kind::Port(port)) } = object {
                self.ports.insert(port.name.clone(), port.clone());
            }
        }
        for key in &batch.deletes {
            if let Some(object_key::Kind::Port(name)) = &key.kind {
                self.ports.remove(name);
            }
        }
        self.generation = header.generation;
        self.batches.push((header, batch));
    }
}
