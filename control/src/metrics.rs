//! Metrics for Prometheus. Their names are in `docs/metrics.md`; a test compares.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use control_api::node;

use crate::{daemon::Daemon, policy::Consequence, store::StoreError};

/// What is counted while control runs; everything else is read when it is asked for.
#[derive(Debug, Default)]
pub struct Metrics {
    verbs: Family<VerbLabels, Counter>,
}

/// The verbs there are: others share one label, so that nobody can make up new series.
const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "STATUS", "GC"];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VerbLabels {
    command: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RangeLabels {
    range: String,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IsolationLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RefusalLabels {
    consequence: &'static str,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: set control.metrics to a free address, or to \"\"")]
pub struct ServeMetricsError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl Metrics {
    /// Counts a verb that was served.
    pub(crate) fn count_verb(&self, command: &str, succeeded: bool) {
        let known = VERBS.into_iter().find(|known| *known == command);
        let labels = VerbLabels {
            command: known.unwrap_or("other"),
            result: if succeeded { "success" } else { "failure" },
        };
        self.verbs.get_or_create(&labels).inc();
    }
}

impl Daemon {
    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub async fn render_metrics(&self) -> Result<String, StoreError> {
        let mut status = self.operator_status().await?;
        let policy = status.policy.take().unwrap_or_default();
        let state = self.desired.engine().state();
        let mut registry = Registry::default();
        registry.register(
            "vrouter_cni_requests",
            "CNI verbs served, by verb and result",
            self.metrics.verbs.clone(),
        );
        let batches: Counter = Counter::default();
        batches.inc_by(state.batches);
        registry.register(
            "vrouter_engine_batches",
            "Batches that the engine has acknowledged",
            batches,
        );
        register_policy(&mut registry, &policy);
        let is_in_force = status.desired_generation == status.acknowledged_generation;
        for (name, help, value) in [
            (
                "vrouter_engine_connected",
                "1 while the engine is connected",
                i64::from(status.engine_connected),
            ),
            (
                "vrouter_engine_in_sync",
                "1 while everything that is desired is in force on every worker",
                i64::from(is_in_force && status.engine_connected),
            ),
            (
                "vrouter_engine_port_errors",
                "Ports that the engine could not open",
                as_gauge(state.port_errors.len()),
            ),
            ("vrouter_cluster_nodes", "Nodes in force", i64::from(status.nodes)),
            ("vrouter_cluster_pods", "Pods in force", i64::from(status.pods)),
            ("vrouter_policies", "NetworkPolicies of the cluster", i64::from(policy.policies)),
            ("vrouter_attachments", "Attachments on this node", i64::from(status.attachments)),
            (
                "vrouter_control_problems",
                "Problems that `vrctl status` lists",
                as_gauge(status.problems.len()),
            ),
        ] {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
        let addresses: Family<RangeLabels, Gauge> = Family::default();
        for range in status.ranges {
            for (state, value) in
                [("total", range.addresses), ("used", range.used), ("reserved", range.reserved)]
            {
                let labels = RangeLabels { range: range.cidr.clone(), state };
                addresses.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        registry.register("vrouter_addresses", "Pod addresses, by range and state", addresses);
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|_| StoreError::Interrupted)?;
        Ok(text)
    }
}

fn register_policy(registry: &mut Registry, policy: &node::PolicyStatus) {
    let isolated: Family<IsolationLabels, Gauge> = Family::default();
    for (direction, ports) in
        [("ingress", policy.ingress_isolated_ports), ("egress", policy.egress_isolated_ports)]
    {
        isolated.get_or_create(&IsolationLabels { direction }).set(i64::from(ports));
    }
    let refused: Family<RefusalLabels, Gauge> = Family::default();
    for consequence in Consequence::ALL.map(Consequence::word) {
        let parts = policy.refused.iter().filter(|part| part.consequence_word == consequence);
        refused.get_or_create(&RefusalLabels { consequence }).set(as_gauge(parts.count()));
    }
    registry.register(
        "vrouter_policy_isolated_ports",
        "Ports that at least one NetworkPolicy isolates, by direction",
        isolated,
    );
    registry.register(
        "vrouter_policy_refused_parts",
        "Fields of NetworkPolicies that are not in force, by what follows from it",
        refused,
    );
}

/// Serves metrics until the task is dropped.
///
/// # Errors
///
/// Fails if the address is in use or not this machine's.
pub async fn serve(
    daemon: Arc<Daemon>,
    address: SocketAddr,
) -> Result<impl Future<Output = std::io::Result<()>>, ServeMetricsError> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| ServeMetricsError { address, source })?;
    let page = async move || match daemon.render_metrics().await {
        Ok(text) => {
            const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, FORMAT)], text).into_response()
        }
        Err(error) => {
            (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    };
    let router = Router::new().route("/metrics", get(page));
    Ok(async move { axum::serve(listener, router).await })
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
