//! A family of metrics: one name, and where its samples are in a report.

use std::{borrow::Cow, fmt};

use control_api::engine::{PortStatus, StageStatus, Status, TunnelStatus, WorkerStatus};
use prometheus_client::metrics::MetricType;

use super::Report;

/// Metrics of one name.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) samples: Samples,
    /// What the document says, too.
    pub(super) help: &'static str,
}

impl Family {
    /// The name without `_total`, which the encoder adds to counters.
    pub(super) fn base_name(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Only rises, from 0 at the engine's start. Its name ends in `_total`.
    Counter,
    /// Rises and falls.
    Gauge,
}

impl Kind {
    pub(super) fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Integer(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl Value {
    /// Milliseconds as seconds, Prometheus' base unit.
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 thousand years")]
    pub(super) fn from_milliseconds(value: u64) -> Self {
        Self::Real(value as f64 / 1e3)
    }

    /// Nanoseconds as seconds.
    #[expect(clippy::cast_precision_loss, reason = "exact to the microsecond for 285 years")]
    pub(super) fn from_nanoseconds(value: u64) -> Self {
        Self::Real(value as f64 / 1e9)
    }
}

/// Where the samples of a family are. The variant decides on the labels.
#[derive(Debug)]
pub(super) enum Samples {
    /// One sample.
    Engine(fn(&Status) -> Value),
    /// The engine's version.
    Version,
    /// The fates of all packets.
    Fates,
    Ports(fn(&PortStatus) -> Value),
    /// Received, sent.
    PortDirections(fn(&PortStatus) -> [u64; 2]),
    Drops,
    Tunnels(fn(&TunnelStatus) -> Value),
    /// Received, sent.
    TunnelDirections(fn(&TunnelStatus) -> [u64; 2]),
    Workers(fn(&WorkerStatus) -> Value),
    WorkerStages(fn(&StageStatus) -> u64),
}

/// Takes a sample: the values of the labels in the order of their names, and its own.
pub(super) type Sink<'a> = dyn FnMut(&[Cow<'_, str>], Value) -> fmt::Result + 'a;

impl Samples {
    /// The names of the labels.
    pub(super) fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Engine(_) => &[],
            Self::Version => &["version"],
            Self::Fates => &["result"],
            Self::Ports(_) => &["port"],
            Self::PortDirections(_) => &["port", "direction"],
            Self::Drops => &["reason", "port"],
            Self::Tunnels(_) => &["tunnel"],
            Self::TunnelDirections(_) => &["tunnel", "direction"],
            Self::Workers(_) => &["worker"],
            Self::WorkerStages(_) => &["worker", "stage"],
        }
    }

    /// Gives each sample of `report` to `sink`.
    ///
    /// # Errors
    ///
    /// Fails if the sink does.
    pub(super) fn visit(&self, report: &Report, sink: &mut Sink<'_>) -> fmt::Result {
        let name = |name: &str| Cow::Owned::<str>(name.to_owned());
        match self {
            Self::Engine(value) => sink(&[], value(&report.status)),
            Self::Version => sink(&[name(&report.status.engine_version)], Value::Integer(1)),
            Self::Fates => fates(report, sink),
            Self::Ports(value) => {
                report.ports.iter().try_for_each(|port| sink(&[name(&port.name)], value(port)))
            }
            Self::PortDirections(values) => {
                report.ports.iter().try_for_each(|port| directions(&port.name, values(port), sink))
            }
            Self::Drops => report.drops.iter().try_for_each(|drop| {
                sink(&[name(&drop.reason), name(&drop.port)], drop.packets.into())
            }),
            Self::Tunnels(value) => report
                .tunnels
                .iter()
                .try_for_each(|tunnel| sink(&[name(tunnel_name(tunnel))], value(tunnel))),
            Self::TunnelDirections(values) => report
                .tunnels
                .iter()
                .try_for_each(|tunnel| directions(tunnel_name(tunnel), values(tunnel), sink)),
            Self::Workers(value) => report.workers.iter().try_for_each(|worker| {
                sink(&[Cow::Owned(worker.index.to_string())], value(worker))
            }),
            Self::WorkerStages(value) => report.workers.iter().try_for_each(|worker| {
                worker.stages.iter().try_for_each(|stage| {
                    let labels = [Cow::Owned(worker.index.to_string()), name(&stage.stage)];
                    sink(&labels, value(stage).into())
                })
            }),
        }
    }
}

fn fates(report: &Report, sink: &mut Sink<'_>) -> fmt::Result {
    let balance = report.status.balance.unwrap_or_default();
    let fates = [
        ("received", balance.received),
        ("generated", balance.generated),
        ("replicated", balance.replicated),
        ("segmented", balance.segmented),
        ("sent", balance.sent),
        ("consumed", balance.consumed),
        ("dropped", balance.dropped),
        ("merged", balance.merged),
    ];
    fates.into_iter().try_for_each(|(fate, packets)| sink(&[Cow::Borrowed(fate)], packets.into()))
}

fn directions(name: &str, [rx, tx]: [u64; 2], sink: &mut Sink<'_>) -> fmt::Result {
    for (direction, value) in [("rx", rx), ("tx", tx)] {
        sink(&[Cow::Borrowed(name), Cow::Borrowed(direction)], value.into())?;
    }
    Ok(())
}

fn tunnel_name(tunnel: &TunnelStatus) -> &str {
    tunnel.tunnel.as_ref().map_or("", |tunnel| &tunnel.name)
}
