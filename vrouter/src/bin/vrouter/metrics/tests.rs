//! The names against the document, and the text against what Prometheus reads.

use control_api::engine::{Balance, StageStatus, Tunnel};

use super::{family::Kind, *};

const DOCUMENT: &str = include_str!("../../../../../docs/metrics.md");

fn row(family: &family::Family) -> String {
    let labels: Vec<_> = family.samples.labels().iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
    let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
    format!("| `{}` | {kind} | {labels} | {} |", family.name, family.help)
}

#[test]
fn the_document_and_the_code_have_the_same_metrics() {
    let documented: Vec<_> = DOCUMENT
        .split("## vrouter-control")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("| `vrouter_"))
        .collect();
    let in_code: Vec<_> = FAMILIES.iter().map(row).collect();
    assert_eq!(documented, in_code, "put these rows into docs/metrics.md:\n{}", in_code.join("\n"));
}

#[test]
fn names_end_as_their_types_ask() {
    for family in FAMILIES {
        assert!(family.name.starts_with("vrouter_"));
        assert_eq!(
            family.kind == Kind::Counter,
            family.name.ends_with("_total"),
            "{}",
            family.name
        );
    }
}

fn report() -> Report {
    Report {
        status: Status {
            engine_version: "1.2.3".into(),
            uptime_ms: 1500,
            balance: Some(Balance { received: 7, ..Balance::default() }),
            ..Status::default()
        },
        ports: vec![PortStatus {
            name: "ns/\"pod\"".into(),
            state: "up".into(),
            rx_packets: 5,
            tx_packets: 6,
            ..PortStatus::default()
        }],
        drops: vec![DropStatus {
            reason: "route_none".into(),
            port: "uplink".into(),
            packets: 3,
            ..DropStatus::default()
        }],
        tunnels: vec![TunnelStatus {
            tunnel: Some(Tunnel { name: "node-b/ipv4".into(), ..Tunnel::default() }),
            ..TunnelStatus::default()
        }],
        workers: vec![WorkerStatus {
            index: 1,
            busy_ppm: 250_000,
            stages: vec![StageStatus { stage: "parse".to_owned(), packets: 64, cycles: 1280 }],
            ..WorkerStatus::default()
        }],
    }
}

#[test]
fn a_report_is_openmetrics_text() {
    let text = report().into_text().unwrap();
    for line in [
        "# TYPE vrouter_uptime_seconds gauge",
        "vrouter_uptime_seconds 1.5",
        "vrouter_build_info{version=\"1.2.3\"} 1",
        "# TYPE vrouter_packets counter",
        "vrouter_packets_total{result=\"received\"} 7",
        "vrouter_port_up{port=\"ns/\\\"pod\\\"\"} 1",
        "vrouter_port_packets_total{port=\"ns/\\\"pod\\\"\",direction=\"rx\"} 5",
        "vrouter_port_packets_total{port=\"ns/\\\"pod\\\"\",direction=\"tx\"} 6",
        "vrouter_dropped_packets_total{reason=\"route_none\",port=\"uplink\"} 3",
        "vrouter_tunnel_up{tunnel=\"node-b/ipv4\"} 0",
        "vrouter_worker_busy_ratio{worker=\"1\"} 0.25",
        "# EOF",
    ] {
        assert!(text.lines().any(|written| written == line), "{line} is missing from:\n{text}");
    }
}

#[test]
fn every_family_has_samples_in_a_full_report() {
    let text = report().into_text().unwrap();
    for family in FAMILIES {
        let has_sample = text.lines().any(|line| {
            line.strip_prefix(family.name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        assert!(has_sample, "{}", family.name);
    }
}

#[tokio::test]
async fn metrics_are_served_over_http_and_nothing_else_is() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address().unwrap();
    let task = tokio::spawn(server.serve(async || Some(report()), std::future::pending()));
    for (path, status) in [("/metrics", "200"), ("/", "404")] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(answer.contains("# EOF"), path == "/metrics");
    }
    let taken = Server::listen(address).await.unwrap_err().to_string();
    assert!(taken.contains("engine.metrics"), "{taken}");
    task.abort();
}
