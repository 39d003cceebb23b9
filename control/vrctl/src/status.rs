//! `vrctl status`: both processes in one view, also when one of them is away.

use std::fmt::Write as _;

use control_api::{engine, node};
use serde::Serialize;

use crate::{
    exit::{self, Failure},
    peer::{CONTROL, ENGINE, Peers},
    print::Printer,
    units,
};

/// Asks both and shows what answered.
///
/// # Errors
///
/// Fails after printing if either process did not answer.
pub(crate) async fn run(peers: &Peers, printer: &mut Printer) -> Result<(), Failure> {
    let engine = engine_status(peers).await;
    let control = control_status(peers).await;
    let report = StatusReport {
        engine_error: engine.as_ref().err().map(|failure| exit::chain(failure)),
        control_error: control.as_ref().err().map(|failure| exit::chain(failure)),
        engine: engine.as_ref().ok().map(EngineReport::from),
        control: control.as_ref().ok().map(ControlReport::from),
    };
    if printer.is_json() {
        printer.object(&report)?;
    } else {
        printer.text(report.to_text().trim_end())?;
    }
    match (engine, control) {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(failure), _) | (_, Err(failure)) => Err(failure),
    }
}

async fn engine_status(peers: &Peers) -> Result<engine::Status, Failure> {
    let (mut client, _) = peers.engine().await?;
    let answer = client.get_status(engine::GetStatusRequest {});
    Ok(peers.answer(ENGINE, answer).await?.into_inner())
}

async fn control_status(peers: &Peers) -> Result<node::Status, Failure> {
    let mut client = peers.control().await?;
    let answer = client.get_status(node::GetStatusRequest {});
    Ok(peers.answer(CONTROL, answer).await?.into_inner())
}

/// The answer as programs see it.
#[derive(Debug, Serialize)]
struct StatusReport {
    engine: Option<EngineReport>,
    engine_error: Option<String>,
    control: Option<ControlReport>,
    control_error: Option<String>,
}

/// The engine's half.
#[derive(Debug, Serialize)]
struct EngineReport {
    version: String,
    /// Text, since a 64-bit number does not survive every JSON reader.
    instance_id: String,
    node: String,
    uptime_ms: u64,
    generation: u64,
    config_version: u64,
    ports: u32,
    routes: u64,
    tunnels: u32,
    flow_connections: u64,
    flow_connections_max: u64,
    flow_inserted: u64,
    flow_expired: u64,
    flow_evicted: u64,
    frames_free: u64,
    frames_total: u64,
    huge_pages: bool,
    balance: BalanceReport,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// Where all packets went.
#[derive(Debug, Serialize)]
struct BalanceReport {
    received: u64,
    generated: u64,
    replicated: u64,
    segmented: u64,
    sent: u64,
    consumed: u64,
    dropped: u64,
    merged: u64,
}

/// Control's half.
#[derive(Debug, Serialize)]
struct ControlReport {
    version: String,
    node: String,
    source: String,
    source_in_sync: bool,
    engine_connected: bool,
    desired_generation: u64,
    acknowledged_generation: u64,
    nodes: u32,
    pods: u32,
    attachments: u32,
    ranges: Vec<RangeReport>,
    problems: Vec<String>,
    router_mac: String,
    pod_mtu_bytes: u32,
    policy: PolicyReport,
}

/// How network policies stand.
#[derive(Debug, Serialize)]
struct PolicyReport {
    policies: u32,
    ingress_isolated_ports: u32,
    egress_isolated_ports: u32,
    refused: Vec<RefusedReport>,
}

/// A field of a policy that is not in force.
#[derive(Debug, Serialize)]
struct RefusedReport {
    policy: String,
    field: String,
    fault: String,
    consequence: String,
    consequence_word: String,
}

impl From<&node::PolicyStatus> for PolicyReport {
    fn from(status: &node::PolicyStatus) -> Self {
        let refused = |part: &node::RefusedPart| RefusedReport {
            policy: part.policy.clone(),
            field: part.field.clone(),
            fault: part.fault.clone(),
            consequence: part.consequence.clone(),
            consequence_word: part.consequence_word.clone(),
        };
        Self {
            policies: status.policies,
            ingress_isolated_ports: status.ingress_isolated_ports,
            egress_isolated_ports: status.egress_isolated_ports,
            refused: status.refused.iter().map(refused).collect(),
        }
    }
}

/// A range of pod addresses.
#[derive(Debug, Serialize)]
struct RangeReport {
    cidr: String,
    addresses: u64,
    used: u64,
    reserved: u64,
}

impl From<&engine::Status> for EngineReport {
    fn from(status: &engine::Status) -> Self {
        let balance = status.balance.unwrap_or_default();
        Self {
            version: status.engine_version.clone(),
            instance_id: format!("{:016x}", status.instance_id),
            node: status.node_name.clone(),
            uptime_ms: status.uptime_ms,
            generation: status.generation,
            config_version: status.config_version,
            ports: status.ports,
            routes: status.routes,
            tunnels: status.tunnels,
            flow_connections: status.flow_connections,
            flow_connections_max: status.flow_connections_max,
            flow_inserted: status.flow_inserted,
            flow_expired: status.flow_expired,
            flow_evicted: status.flow_evicted,
            frames_free: status.frames_free,
            frames_total: status.frames_total,
            huge_pages: status.huge_pages,
            balance: BalanceReport {
                received: balance.received,
                generated: balance.generated,
                replicated: balance.replicated,
                segmented: balance.segmented,
                sent: balance.sent,
                consumed: balance.consumed,
                dropped: balance.dropped,
                merged: balance.merged,
            },
            warnings: status.warnings.clone(),
            notes: status.notes.clone(),
        }
    }
}

impl From<&node::Status> for ControlReport {
    fn from(status: &node::Status) -> Self {
        let range = |range: &node::Range| RangeReport {
            cidr: range.cidr.clone(),
            addresses: range.addresses,
            used: range.used,
            reserved: range.reserved,
        };
        Self {
            version: status.version.clone(),
            node: status.node_name.clone(),
            source: status.source.clone(),
            source_in_sync: status.source_in_sync,
            engine_connected: status.engine_connected,
            desired_generation: status.desired_generation,
            acknowledged_generation: status.acknowledged_generation,
            nodes: status.nodes,
            pods: status.pods,
            attachments: status.attachments,
            ranges: status.ranges.iter().map(range).collect(),
            problems: status.problems.clone(),
            router_mac: status.router_mac.clone(),
            pod_mtu_bytes: status.pod_mtu_bytes,
            policy: PolicyReport::from(&status.policy.clone().unwrap_or_default()),
        }
    }
}

impl StatusReport {
    fn to_text(&self) -> String {
        let mut text = String::new();
        match (&self.engine, &self.engine_error) {
            (Some(engine), _) => engine.write(&mut text),
            (None, error) => section(&mut text, "engine", error.as_deref().unwrap_or_default()),
        }
        text.push('\n');
        match (&self.control, &self.control_error) {
            (Some(control), _) => control.write(&mut text),
            (None, error) => section(&mut text, "control", error.as_deref().unwrap_or_default()),
        }
        text
    }
}

impl EngineReport {
    fn write(&self, text: &mut String) {
        section(text, "engine", if self.warnings.is_empty() { "healthy" } else { "degraded" });
        line(text, "version", &format!("{}, instance {}", self.version, self.instance_id));
        line(text, "node", if self.node.is_empty() { "not programmed yet" } else { &self.node });
        line(text, "up for", &units::milliseconds(self.uptime_ms));
        let in_force = format!("{}, snapshot {}", self.generation, self.config_version);
        line(text, "generation", &in_force);
        let objects =
            format!("{} ports, {} routes, {} tunnels", self.ports, self.routes, self.tunnels);
        line(text, "objects", &objects);
        line(text, "connections", &of(self.flow_connections, self.flow_connections_max));
        let pages = if self.huge_pages { "huge pages" } else { "small pages" };
        let used = self.frames_total.saturating_sub(self.frames_free);
        line(text, "frames used", &format!("{}, {pages}", of(used, self.frames_total)));
        let balance = &self.balance;
        let packets = format!(
            "{} received, {} generated, {} sent, {} consumed, {} dropped",
            units::count(balance.received),
            units::count(balance.generated),
            units::count(balance.sent),
            units::count(balance.consumed),
            units::count(balance.dropped),
        );
        line(text, "packets", &packets);
        for warning in &self.warnings {
            line(text, "warning", warning);
        }
        for note in &self.notes {
            line(text, "note", note);
        }
    }
}

impl ControlReport {
    fn write(&self, text: &mut String) {
        section(text, "control", if self.problems.is_empty() { "healthy" } else { "degraded" });
        line(text, "version", &self.version);
        line(text, "node", &self.node);
        let sync = if self.source_in_sync { "in sync" } else { "not in sync" };
        line(text, "source", &format!("{}, {sync}", self.source));
        let engine = match (self.engine_connected, self.desired_generation) {
            (false, _) => "not connected".to_owned(),
            (true, desired) if desired == self.acknowledged_generation => {
                format!("in sync at generation {desired}")
            }
            (true, desired) => {
                format!("at generation {}, {desired} is wanted", self.acknowledged_generation)
            }
        };
        line(text, "engine", &engine);
        let objects = format!(
            "{} nodes, {} pods, {} attachments here",
            self.nodes, self.pods, self.attachments
        );
        line(text, "objects", &objects);
        if !self.router_mac.is_empty() {
            line(text, "router MAC", &self.router_mac);
            line(text, "pod MTU", &self.pod_mtu_bytes.to_string());
        }
        let policy = &self.policy;
        let isolated = format!(
            "{} NetworkPolicies, {} of their fields refused; ports isolated here: {} in ingress, \
             {} in egress",
            policy.policies,
            policy.refused.len(),
            policy.ingress_isolated_ports,
            policy.egress_isolated_ports
        );
        line(text, "policy", &isolated);
        for range in &self.ranges {
            let used = of(range.used, range.addresses);
            line(text, "range", &format!("{}: {used}, {} reserved", range.cidr, range.reserved));
        }
        for problem in &self.problems {
            line(text, "problem", problem);
        }
    }
}

fn section(text: &mut String, name: &str, state: &str) {
    let _ = writeln!(text, "{name}: {state}");
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<12}  {value}");
}

fn of(part: u64, whole: u64) -> String {
    format!("{} of {} ({})", units::count(part), units::count(whole), units::percent(part, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    fn report() -> StatusReport {
        StatusReport {
            engine: Some(EngineReport::from(&engine::Status {
                frames_total: 100,
                frames_free: 75,
                warnings: vec!["uplink: copy mode".to_owned()],
                ..engine::Status::default()
            })),
            engine_error: None,
            control: None,
            control_error: Some("nobody listens".to_owned()),
        }
    }

    #[test]
    fn the_json_output_is_the_documented_one() {
        let report = report();
        assert_documented("status", &report);
        assert_documented("status engine", &report.engine);
        assert_documented("status control", &ControlReport::from(&node::Status::default()));
    }

    #[test]
    fn a_refused_part_of_a_policy_is_counted_and_named_with_its_field() {
        let refused = vec![node::RefusedPart {
            policy: "shop/web".to_owned(),
            field: "spec.ingress[0].ports[0].endPort".to_owned(),
            ..node::RefusedPart::default()
        }];
        let policy = node::PolicyStatus { policies: 3, refused, ..node::PolicyStatus::default() };
        let status = node::Status { policy: Some(policy), ..node::Status::default() };
        let report = ControlReport::from(&status);
        let mut text = String::new();
        report.write(&mut text);
        assert!(text.contains("3 NetworkPolicies, 1 of their fields refused"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        let part = &json["policy"]["refused"][0];
        assert_eq!(
            (&part["policy"], &part["field"]),
            (&"shop/web".into(), &"spec.ingress[0].ports[0].endPort".into())
        );
        assert_documented("status control policy", &report.policy);
    }

    #[test]
    fn a_note_is_shown_and_degrades_nothing() {
        let engine = EngineReport::from(&engine::Status {
            notes: vec!["small pages".to_owned()],
            ..engine::Status::default()
        });
        let mut text = String::new();
        engine.write(&mut text);
        assert!(text.contains("engine: healthy"), "{text}");
        assert!(text.contains("note          small pages"), "{text}");
    }

    #[test]
    fn what_is_away_and_what_is_degraded_is_said() {
        let text = report().to_text();
        assert!(text.contains("engine: degraded"), "{text}");
        assert!(text.contains("frames used   25 of 100 (25.0 %), small pages"), "{text}");
        assert!(text.contains("warning       uplink: copy mode"), "{text}");
        assert!(text.contains("control: nobody listens"), "{text}");
    }
}
