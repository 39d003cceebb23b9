//! Client and server over a real unix socket.
#![cfg(all(feature = "client", feature = "server"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::{path::Path, pin::Pin};

use control_api::{
    connect::{ConnectError, HandshakeError, connect_control, connect_engine, handshake},
    listen::{SocketLease, reflection_service},
    node::{
        Attachment, CniError, CniRequest, CniResponse, GetStatusRequest, ListAttachmentsRequest,
        ListPodsRequest, Pod, Status,
        control_server::{Control, ControlServer},
    },
};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_stream::Stream;
use tonic::{Request, Response};

struct Fixture;

#[tonic::async_trait]
impl Control for Fixture {
    type ListAttachmentsStream =
        Pin<Box<dyn Stream<Item = Result<Attachment, tonic::Status>> + Send>>;
    type ListPodsStream = Pin<Box<dyn Stream<Item = Result<Pod, tonic::Status>> + Send>>;

    async fn cni(
        &self,
        request: Request<CniRequest>,
    ) -> Result<Response<CniResponse>, tonic::Status> {
        let error =
            CniError { code: 4, message: request.into_inner().command, details: String::new() };
        Ok(Response::new(CniResponse { result: Vec::new(), error: Some(error) }))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<Status>, tonic::Status> {
        Ok(Response::new(Status { node_name: "node-a".into(), ..Status::default() }))
    }

    async fn list_attachments(
        &self,
        _: Request<ListAttachmentsRequest>,
    ) -> Result<Response<Self::ListAttachmentsStream>, tonic::Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    async fn list_pods(
        &self,
        _: Request<ListPodsRequest>,
    ) -> Result<Response<Self::ListPodsStream>, tonic::Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

/// A server that ends, with its connections, when the sender is dropped.
fn serve(path: &Path) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (lease, incoming) = SocketLease::listen(path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .add_service(reflection_service().unwrap())
        .add_service(ControlServer::new(Fixture))
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.await;
        });
    let task = tokio::spawn(async move {
        server.await.unwrap();
        drop(lease);
    });
    (stop, task)
}

#[tokio::test]
async fn a_client_reaches_its_server_over_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let _server = serve(&path);
    let mut client = connect_control(&path).await.unwrap();
    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.node_name, "node-a");
    let request = CniRequest { command: "ADD".into(), ..CniRequest::default() };
    assert_eq!(client.cni(request).await.unwrap().into_inner().error.unwrap().message, "ADD");
}

#[tokio::test]
async fn a_missing_socket_is_named_with_the_program_to_start() {
    let error = connect_control(Path::new("/nonexistent/c.sock")).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoSocket { .. }));
    assert!(error.to_string().contains("/nonexistent/c.sock"));
    assert!(error.to_string().contains("vrouter-control"));
}

#[tokio::test]
async fn a_socket_without_a_listener_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = connect_control(&path).await.unwrap_err();
    assert!(matches!(error, ConnectError::NobodyListens { .. }), "{error}");
}

#[tokio::test]
async fn a_channel_does_not_reconnect_to_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (stop, first) = serve(&path);
    let mut client = connect_control(&path).await.unwrap();
    client.get_status(GetStatusRequest {}).await.unwrap();
    drop(stop);
    first.await.unwrap();
    let _second = serve(&path);
    assert!(client.get_status(GetStatusRequest {}).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_no_engine_refuses_the_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let _server = serve(&path);
    let mut engine = connect_engine(&path).await.unwrap();
    let error = handshake(&mut engine, "test").await.unwrap_err();
    assert!(matches!(error, HandshakeError::Refused(_)), "{error}");
}
