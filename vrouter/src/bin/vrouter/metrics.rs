//! The engine's metrics for Prometheus, over HTTP.
//!
//! A scrape asks the engine once for what `vrctl` shows too, and writes it as `OpenMetrics` text.
//! Names, types and labels stand in [`families::FAMILIES`]; `docs/metrics.md` is compared with it
//! by a test.

mod families;
mod family;
mod server;

use std::fmt;

use control_api::engine::{DropStatus, PortStatus, Status, TunnelStatus, WorkerStatus};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    registry::Registry,
};

use self::{
    families::FAMILIES,
    family::{Kind, Value},
};

pub(crate) use server::Server;

/// What the engine counted, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) status: Status,
    pub(crate) ports: Vec<PortStatus>,
    pub(crate) drops: Vec<DropStatus>,
    pub(crate) tunnels: Vec<TunnelStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
}

impl Report {
    /// The report as `OpenMetrics` text.
    ///
    /// # Errors
    ///
    /// Never in practice: text is written into a string.
    fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut encoded = String::new();
        text::encode(&mut encoded, &registry)?;
        Ok(encoded)
    }
}

impl Collector for Report {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in FAMILIES {
            let kind = family.kind.metric_type();
            let mut metric =
                encoder.encode_descriptor(family.base_name(), family.help, None, kind)?;
            let names = family.samples.labels();
            family.samples.visit(self, &mut |labels, value| {
                let labels: Vec<_> =
                    names.iter().copied().zip(labels.iter().map(AsRef::as_ref)).collect();
                // A sample without labels would otherwise get a pair of empty braces.
                if labels.is_empty() {
                    return encode(&mut metric, family.kind, value);
                }
                encode(&mut metric.encode_family(&labels)?, family.kind, value)
            })?;
        }
        Ok(())
    }
}

fn encode(sample: &mut MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Integer(count)) => {
            sample.encode_counter::<NoLabelSet, _, u64>(&count, None)
        }
        (Kind::Counter, Value::Real(count)) => {
            sample.encode_counter::<NoLabelSet, _, u64>(&count, None)
        }
        (Kind::Gauge, Value::Integer(level)) => sample.encode_gauge(&level),
        (Kind::Gauge, Value::Real(level)) => sample.encode_gauge(&level),
    }
}

#[cfg(test)]
mod tests;
