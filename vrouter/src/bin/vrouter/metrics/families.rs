//! Every metric of the engine: name, type, where its samples come from, and meaning.

use super::family::{
    Family,
    Kind::{Counter, Gauge},
    Samples::{
        self, Drops, Engine, Fates, PortDirections, Ports, TunnelDirections, Tunnels, Version,
        WorkerStages, Workers,
    },
    Value,
};

/// All families, in the order in which they are written and documented.
pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "vrouter_uptime_seconds",
        Engine(|status| Value::from_milliseconds(status.uptime_ms)),
        "Time since the engine started.",
    ),
    gauge("vrouter_build_info", Version, "Always 1; the label is the engine's version."),
    gauge(
        "vrouter_config_generation",
        Engine(|status| status.generation.into()),
        "Generation of the last batch in force.",
    ),
    gauge(
        "vrouter_config_version",
        Engine(|status| status.config_version.into()),
        "Version of the snapshot that is published to the workers.",
    ),
    gauge(
        "vrouter_warnings",
        Engine(|status| Value::Integer(status.warnings.len() as u64)),
        "Warnings that `vrctl status` shows: what is wrong or degraded.",
    ),
    gauge("vrouter_routes", Engine(|status| status.routes.into()), "Routes of all VRFs."),
    counter(
        "vrouter_packets_total",
        Fates,
        "Packets by fate: received + generated + replicated + segmented = sent + consumed + dropped \
         + merged, and those under way.",
    ),
    gauge(
        "vrouter_port_up",
        Ports(|port| u64::from(port.state == "up").into()),
        "1 if the port is up, else 0.",
    ),
    counter(
        "vrouter_port_packets_total",
        PortDirections(|port| [port.rx_packets, port.tx_packets]),
        "Packets received from (rx) and sent to (tx) the port's far side.",
    ),
    counter(
        "vrouter_port_bytes_total",
        PortDirections(|port| [port.rx_bytes, port.tx_bytes]),
        "Bytes of those packets, with their Ethernet headers.",
    ),
    counter(
        "vrouter_port_forwarded_packets_total",
        Ports(|port| port.forwarded.into()),
        "Packets received on the port that left through any port.",
    ),
    counter(
        "vrouter_port_consumed_packets_total",
        Ports(|port| port.consumed.into()),
        "Packets received on the port that were for the engine itself: ARP, ND, ICMP.",
    ),
    counter(
        "vrouter_port_kernel_dropped_packets_total",
        Ports(|port| port.kernel_rx_dropped.into()),
        "Packets that the kernel dropped before the engine saw them, where it tells.",
    ),
    counter(
        "vrouter_dropped_packets_total",
        Drops,
        "Packets dropped, by reason and ingress port; the port is empty for packets that the engine \
         made itself.",
    ),
    gauge(
        "vrouter_flow_connections",
        Engine(|status| status.flow_connections.into()),
        "Connections in the flow table.",
    ),
    gauge(
        "vrouter_flow_connections_max",
        Engine(|status| status.flow_connections_max.into()),
        "Connections that the flow table has room for.",
    ),
    counter(
        "vrouter_flow_inserted_connections_total",
        Engine(|status| status.flow_inserted.into()),
        "Connections that were put into the flow table.",
    ),
    counter(
        "vrouter_flow_expired_connections_total",
        Engine(|status| status.flow_expired.into()),
        "Connections that ended by their idle timeout.",
    ),
    counter(
        "vrouter_flow_evicted_connections_total",
        Engine(|status| status.flow_evicted.into()),
        "Connections that gave way to others because the flow table was full.",
    ),
    gauge(
        "vrouter_packet_memory_frames",
        Engine(|status| status.frames_total.into()),
        "Frames of packet memory.",
    ),
    gauge(
        "vrouter_packet_memory_free_frames",
        Engine(|status| status.frames_free.into()),
        "Frames that no ring and no packet holds.",
    ),
    gauge(
        "vrouter_tunnel_up",
        Tunnels(|tunnel| u64::from(tunnel.state == "up").into()),
        "1 if the tunnel's next hop is resolved, else 0.",
    ),
    counter(
        "vrouter_tunnel_packets_total",
        TunnelDirections(|tunnel| [tunnel.rx_packets, tunnel.tx_packets]),
        "Packets taken out of (rx) and put into (tx) the tunnel.",
    ),
    counter(
        "vrouter_tunnel_bytes_total",
        TunnelDirections(|tunnel| [tunnel.rx_bytes, tunnel.tx_bytes]),
        "Bytes of those packets, as inner Ethernet frames.",
    ),
    counter("vrouter_worker_polls_total", Workers(|worker| worker.polls.into()), "Polls."),
    counter(
        "vrouter_worker_empty_polls_total",
        Workers(|worker| worker.empty_polls.into()),
        "Polls that moved no packet.",
    ),
    counter(
        "vrouter_worker_packets_total",
        Workers(|worker| worker.packets.into()),
        "Packets given to the pipeline.",
    ),
    counter(
        "vrouter_worker_bursts_total",
        Workers(|worker| worker.bursts.into()),
        "Bursts given to the pipeline.",
    ),
    counter(
        "vrouter_worker_busy_seconds_total",
        Workers(|worker| Value::from_nanoseconds(worker.busy_nanoseconds)),
        "Time spent in polls that moved packets.",
    ),
    counter(
        "vrouter_worker_stage_packets_total",
        WorkerStages(|stage| stage.packets),
        "Packets on which the stage was measured: those of one burst of 64.",
    ),
    counter(
        "vrouter_worker_stage_cycles_total",
        WorkerStages(|stage| stage.cycles),
        "Cycles of the time-stamp counter that the stage took for those packets.",
    ),
    gauge(
        "vrouter_worker_busy_ratio",
        Workers(|worker| Value::Real(f64::from(worker.busy_ppm) / 1e6)),
        "Share of the last second that was spent in polls that moved packets, 0 to 1.",
    ),
    gauge(
        "vrouter_worker_config_version",
        Workers(|worker| worker.config_version.into()),
        "Version of the snapshot in use; it stays behind while the worker is stuck.",
    ),
    gauge(
        "vrouter_worker_last_poll_seconds",
        Workers(|worker| Value::from_milliseconds(worker.last_poll_ms)),
        "Time since the last poll.",
    ),
    counter(
        "vrouter_worker_stalls_total",
        Workers(|worker| worker.stalls.into()),
        "Times that the watchdog found the worker stuck.",
    ),
    gauge(
        "vrouter_worker_cached_frames",
        Workers(|worker| worker.frames_cached.into()),
        "Free frames in the worker's own pool.",
    ),
];

const fn gauge(name: &'static str, samples: Samples, help: &'static str) -> Family {
    Family { name, kind: Gauge, samples, help }
}

const fn counter(name: &'static str, samples: Samples, help: &'static str) -> Family {
    Family { name, kind: Counter, samples, help }
}
