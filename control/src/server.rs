//! Control's own gRPC service, for the plugin and the operator.

use std::{pin::Pin, sync::Arc};

use control_api::node::{
    Attachment, CniRequest, CniResponse, GetStatusRequest, ListAttachmentsRequest, ListPodsRequest,
    Pod, Status, control_server::Control,
};
use tokio_stream::Stream;
use tonic::{Request, Response};

use crate::{daemon::Daemon, store::StoreError};

/// The service. It is served once the node is reconciled; who asks earlier waits.
#[derive(Debug)]
pub struct ControlService(pub Arc<Daemon>);

#[tonic::async_trait]
impl Control for ControlService {
    type ListAttachmentsStream =
        Pin<Box<dyn Stream<Item = Result<Attachment, tonic::Status>> + Send>>;
    type ListPodsStream = Pin<Box<dyn Stream<Item = Result<Pod, tonic::Status>> + Send>>;

    async fn cni(
        &self,
        request: Request<CniRequest>,
    ) -> Result<Response<CniResponse>, tonic::Status> {
        Ok(Response::new(Arc::clone(&self.0).cni(request.into_inner()).await))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<Status>, tonic::Status> {
        let status = self.0.operator_status().await;
        status.map(Response::new).map_err(|error| internal(&error))
    }

    async fn list_attachments(
        &self,
        _: Request<ListAttachmentsRequest>,
    ) -> Result<Response<Self::ListAttachmentsStream>, tonic::Status> {
        let listed = self.0.list_attachments().await.map_err(|error| internal(&error))?;
        Ok(Response::new(Box::pin(tokio_stream::iter(listed.into_iter().map(Ok)))))
    }

    async fn list_pods(
        &self,
        _: Request<ListPodsRequest>,
    ) -> Result<Response<Self::ListPodsStream>, tonic::Status> {
        let listed = self.0.list_pods().into_iter().map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(listed))))
    }
}

fn internal(error: &StoreError) -> tonic::Status {
    tonic::Status::internal(error.to_string())
}
