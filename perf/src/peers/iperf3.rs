//! iperf3: bulk TCP between two namespaces.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tempfile::TempDir;

use super::{Background, Namespace, PeerError, background::bound_to};

/// The package that it is in.
const PACKAGE: &str = "iperf3";
const PROGRAM: &str = "iperf3";
/// How long a server may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How often to ask whether it does.
const START_POLL: Duration = Duration::from_millis(20);

/// A server that waits for one client after the other.
#[derive(Debug)]
pub struct Iperf3 {
    server: Background,
    address: IpAddr,
    cpus: Vec<usize>,
    _folder: TempDir,
}

/// What a client measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bulk {
    /// Bits of payload a second that arrived.
    pub bits_per_second: f64,
    /// TCP segments that were sent again.
    pub retransmits: u64,
}

/// What of iperf3's JSON counts.
#[derive(Debug, Deserialize)]
struct Report {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Debug, Default, Deserialize)]
struct End {
    sum_received: Option<Received>,
    sum_sent: Option<Sent>,
}

#[derive(Debug, Deserialize)]
struct Received {
    bits_per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Sent {
    #[serde(default)]
    retransmits: u64,
}

impl Iperf3 {
    /// Starts a server on `cpus`, where its clients will run too.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed or does not start.
    pub fn serve(at: &Namespace, address: IpAddr, cpus: &[usize]) -> Result<Self, PeerError> {
        if Command::new(PROGRAM).arg("--version").output().is_err() {
            return Err(PeerError::NotInstalled { package: PACKAGE });
        }
        let folder = tempfile::Builder::new().prefix("vrouter-perf-iperf3-").tempdir();
        let write = |source| PeerError::Write { path: std::env::temp_dir(), source };
        let folder = folder.map_err(write)?;
        let mut command = at.command(PROGRAM);
        command.args(["--server", "--bind", &address.to_string()]);
        let log: PathBuf = folder.path().join("server.log");
        let server = Background::start_on("iperf3 --server", &command, cpus, &log)?;
        Ok(Self { server, address, cpus: cpus.to_vec(), _folder: folder })
    }

    /// Sends for so long over so many connections.
    ///
    /// # Errors
    ///
    /// Fails if the client or the server does.
    pub fn send(
        &mut self,
        from: &Namespace,
        streams: u32,
        seconds: u32,
    ) -> Result<Bulk, PeerError> {
        let mut command = from.command(PROGRAM);
        command.args(["--client", &self.address.to_string(), "--json"]);
        command.args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()]);
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            self.server.check()?;
            let program = PROGRAM.to_owned();
            let output = bound_to(&command, &self.cpus)
                .output()
                .map_err(|source| PeerError::Run { program, source })?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let failed = |message| PeerError::Failed { command: PROGRAM.to_owned(), message };
            let report: Report = serde_json::from_str(&text)
                .map_err(|error| failed(format!("{error}: {}", text.trim())))?;
            match report {
                Report { error: Some(error), .. } if Instant::now() > deadline => {
                    return Err(failed(error));
                }
                // It does not listen yet, or is not done with the last client.
                Report { error: Some(_), .. } => thread::sleep(START_POLL),
                Report { end: End { sum_received: Some(received), sum_sent }, .. } => {
                    return Ok(Bulk {
                        bits_per_second: received.bits_per_second,
                        retransmits: sum_sent.map_or(0, |sent| sent.retransmits),
                    });
                }
                Report { .. } => return Err(failed("its results name no sum".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_among_all_that_iperf3_says() {
        let text = r#"{"start": {"version": "iperf 3.12"}, "intervals": [], "end": {
            "streams": [], "sum_sent": {"bytes": 9, "bits_per_second": 2.5e9, "retransmits": 7},
            "sum_received": {"bytes": 9, "bits_per_second": 2e9, "sender": true}}}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        assert!((report.end.sum_received.unwrap().bits_per_second - 2e9).abs() < 1.0);
        assert_eq!(report.end.sum_sent.unwrap().retransmits, 7);
        let refused = r#"{"start": {}, "intervals": [], "end": {}, "error": "unable to connect"}"#;
        let report: Report = serde_json::from_str(refused).unwrap();
        assert_eq!(report.error.unwrap(), "unable to connect");
        assert!(report.end.sum_received.is_none());
    }
}
