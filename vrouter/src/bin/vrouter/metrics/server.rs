//! The HTTP server of the metrics: one path, read only.

use std::{future::Future, io, net::SocketAddr};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::Report;

/// The media type of `OpenMetrics` text, as its specification names it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsError {
    #[error(
        "cannot serve metrics on {address}; set engine.metrics to another address, or to \"\" for \
         no metrics"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Metrics that are about to be served.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    ///
    /// Fails if the address is in use, or not this machine's.
    pub(crate) async fn listen(address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| MetricsError::Listen { address, source })?;
        Ok(Self { listener })
    }

    /// The address that it listens on: with the port that the system chose, if 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers scrapes with what `report` tells, until `stop` is over.
    ///
    /// # Errors
    ///
    /// Fails if the system takes the listener away.
    pub(crate) async fn serve<F>(
        self,
        report: impl Fn() -> F + Clone + Send + Sync + 'static,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = Option<Report>> + Send,
    {
        let metrics = get(async move || answer(report().await));
        let app = Router::new().route("/metrics", metrics);
        axum::serve(self.listener, app).with_graceful_shutdown(stop).await
    }
}

fn answer(report: Option<Report>) -> Response {
    match report.map(Report::into_text) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Some(Err(_)) | None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
