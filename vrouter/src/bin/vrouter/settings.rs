//! The `[engine]` section of `vrouter.toml`.
//!
//! `docs/vrouter.toml` is built in: it is where the defaults come from, what a key is compared
//! with, and what `--print-config` prints. So the document cannot differ from the code.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use flowtable::{TICKS_PER_SECOND, Timeouts, Tracking};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The configuration file with every key, its meaning and default.
pub(crate) const DOCUMENTED: &str = include_str!("../../../../docs/vrouter.toml");

/// The section that is ours, and the one that is not.
const SECTION: &str = "engine";
const OTHER_SECTION: &str = "control";

/// Bytes of a configuration file at most: a hundred times the documented one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Workers at most: as many as the engine has hand-off rings for.
pub(crate) const WORKERS_MAX: u16 = 64;
/// Seconds of an idle timeout at most: thirty days, well within what ticks can count before they
/// wrap.
const TIMEOUT_SECONDS_MAX: u32 = 30 * 24 * 3600;
/// Below this similarity (Jaro-Winkler) a known key is no help for somebody who mistyped one.
const SIMILARITY_MIN: f64 = 0.7;

/// What the operator can set.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) workers: u16,
    pub(crate) cpus: Vec<u16>,
    pub(crate) idle: IdleSetting,
    pub(crate) metrics: Metrics,
    pub(crate) log: String,
    pub(crate) bpf_folder: PathBuf,
    pub(crate) packet_memory: PacketMemory,
    pub(crate) flow_table: FlowTable,
    pub(crate) connections: Connections,
}

/// `[engine.packet_memory]`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PacketMemory {
    pub(crate) frames: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) huge_pages: bool,
}

/// `[engine.flow_table]`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlowTable {
    pub(crate) ipv4_connections: u32,
    pub(crate) ipv6_connections: u32,
    pub(crate) fragments: u32,
}

/// `[engine.connections]`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connections {
    pub(crate) midstream_pickup: bool,
    pub(crate) tcp_established_seconds: u32,
    pub(crate) tcp_transitory_seconds: u32,
    pub(crate) udp_one_way_seconds: u32,
    pub(crate) udp_answered_seconds: u32,
    pub(crate) icmp_seconds: u32,
}

impl Connections {
    /// How the flow table tracks connections. SCTP's timeouts are TCP's; what the file has no key
    /// for keeps its default.
    pub(crate) fn tracking(&self) -> Tracking {
        let ticks = |seconds: u32| seconds.saturating_mul(TICKS_PER_SECOND);
        let timeouts = Timeouts {
            tcp_established: ticks(self.tcp_established_seconds),
            tcp_transitory: ticks(self.tcp_transitory_seconds),
            udp_one_way: ticks(self.udp_one_way_seconds),
            udp_answered: ticks(self.udp_answered_seconds),
            icmp: ticks(self.icmp_seconds),
            sctp_established: ticks(self.tcp_established_seconds),
            sctp_transitory: ticks(self.tcp_transitory_seconds),
            ..Timeouts::default()
        };
        Tracking { timeouts, midstream_pickup: self.midstream_pickup }
    }
}

/// What a worker without packets does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IdleSetting {
    /// Sleeps until a packet arrives.
    Adaptive,
    /// Goes on polling.
    Busy,
}

/// Where the metrics are served, if anywhere.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Metrics(pub(crate) Option<SocketAddr>);

impl From<Metrics> for String {
    fn from(metrics: Metrics) -> Self {
        metrics.0.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read the configuration {path}; name another with --config")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has {bytes} bytes, at most {FILE_BYTES_MAX} are read: is it the right file?")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path} is no TOML: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("unknown key {key}{}; `vrouter --print-config` lists all keys", did_you_mean(.nearest.as_ref()))]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("{key}: {message}")]
    Value { key: String, message: String },
}

fn did_you_mean(nearest: Option<&String>) -> String {
    nearest.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}

impl Settings {
    /// Reads a configuration file; one that is not there and was not asked for means the defaults.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, is no TOML, has a key that is not known, or an impossible
    /// value.
    pub(crate) fn load(path: &Path, must_exist: bool) -> Result<Self, SettingsError> {
        let read_error = |source| SettingsError::Read { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                let bytes = metadata.len();
                return Err(SettingsError::TooLarge { path: path.to_owned(), bytes });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Self::from_table(Table::new());
            }
            _ => {}
        }
        let text = fs::read_to_string(path).map_err(read_error)?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            SettingsError::Syntax { path: path.to_owned(), message: error.to_string() }
        })?;
        Self::from_table(table)
    }

    /// The documented defaults with the keys of `table` in their place.
    ///
    /// # Errors
    ///
    /// Fails if a key is not known, or a value is impossible.
    fn from_table(table: Table) -> Result<Self, SettingsError> {
        let mut all = documented()?;
        for (section, content) in table {
            match (section.as_str(), content) {
                (SECTION, content) => merge(&mut all, SECTION, content, SECTION)?,
                (OTHER_SECTION, _) => {}
                (unknown, _) => return Err(unknown_key("", unknown, [SECTION, OTHER_SECTION])),
            }
        }
        let settings = decode(&all)?;
        settings.check()?;
        Ok(settings)
    }

    /// Checks what only several settings together, or a range, can tell.
    ///
    /// # Errors
    ///
    /// Fails with the key that is wrong.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let refuse = |key: &str, message: String| {
            Err(SettingsError::Value { key: format!("{SECTION}.{key}"), message })
        };
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return refuse("workers", format!("{} is not in 1 to {WORKERS_MAX}", self.workers));
        }
        if !self.cpus.is_empty() && self.cpus.len() != usize::from(self.workers) {
            let message = format!(
                "{} CPUs for {} workers; name one for each, or none",
                self.cpus.len(),
                self.workers
            );
            return refuse("cpus", message);
        }
        let mut cpus = self.cpus.clone();
        cpus.sort_unstable();
        if let Some([cpu, _]) = cpus.array_windows().find(|[cpu, next]| cpu == next) {
            return refuse("cpus", format!("CPU {cpu} is named twice"));
        }
        if !self.socket.is_absolute() {
            let message = format!("{} is not an absolute path", self.socket.display());
            return refuse("socket", message);
        }
        if let Err(error) = self.log.parse::<tracing_subscriber::EnvFilter>() {
            return refuse("log", format!("\"{}\" is no log level: {error}", self.log));
        }
        self.check_memory()
    }

    /// Where programs are pinned, if anywhere.
    pub(crate) fn pin_folder(&self) -> Option<PathBuf> {
        Some(self.bpf_folder.clone()).filter(|folder| !folder.as_os_str().is_empty())
    }

    fn check_memory(&self) -> Result<(), SettingsError> {
        let range = |key: &str, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            let message = format!("{value} is not in {min} to {max}");
            Err(SettingsError::Value { key: format!("{SECTION}.{key}"), message })
        };
        let PacketMemory { frames, frame_bytes, .. } = self.packet_memory;
        range("packet_memory.frames", frames, 64, 1 << 24)?;
        let FlowTable { ipv4_connections, ipv6_connections, fragments } = self.flow_table;
        range("flow_table.ipv4_connections", ipv4_connections, 1024, 1 << 24)?;
        range("flow_table.ipv6_connections", ipv6_connections, 1024, 1 << 24)?;
        range("flow_table.fragments", fragments, 64, 1 << 20)?;
        let connections = self.connections;
        for (key, seconds) in [
            ("connections.tcp_established_seconds", connections.tcp_established_seconds),
            ("connections.tcp_transitory_seconds", connections.tcp_transitory_seconds),
            ("connections.udp_one_way_seconds", connections.udp_one_way_seconds),
            ("connections.udp_answered_seconds", connections.udp_answered_seconds),
            ("connections.icmp_seconds", connections.icmp_seconds),
        ] {
            range(key, seconds, 1, TIMEOUT_SECONDS_MAX)?;
        }
        if ![2048, 4096].contains(&frame_bytes) {
            let key = format!("{SECTION}.packet_memory.frame_bytes");
            let message = format!("{frame_bytes} is neither 2048 nor 4096");
            return Err(SettingsError::Value { key, message });
        }
        Ok(())
    }
}

/// The built-in document, without the section that is not ours.
fn documented() -> Result<Table, SettingsError> {
    let mut table: Table = DOCUMENTED.parse().map_err(|error: toml::de::Error| {
        SettingsError::Syntax { path: "docs/vrouter.toml".into(), message: error.to_string() }
    })?;
    table.remove(OTHER_SECTION);
    Ok(table)
}

/// Puts `value` in the place of what `key` holds in `into`; every key must be there already.
fn merge(into: &mut Table, key: &str, value: Value, path: &str) -> Result<(), SettingsError> {
    match (into.get_mut(key), value) {
        (Some(Value::Table(known)), Value::Table(given)) => {
            for (key, value) in given {
                if !known.contains_key(&key) {
                    return Err(unknown_key(path, &key, known.keys().map(String::as_str)));
                }
                merge(known, &key, value, &format!("{path}.{key}"))?;
            }
        }
        (Some(Value::Table(_)), _) => {
            let message = format!("is a section; write [{path}] and its keys below");
            return Err(SettingsError::Value { key: path.to_owned(), message });
        }
        (Some(known), value) => *known = value,
        (None, _) => return Err(unknown_key("", key, [SECTION])),
    }
    Ok(())
}

fn decode(all: &Table) -> Result<Settings, SettingsError> {
    let section = all.get(SECTION).cloned().unwrap_or_else(|| Value::Table(Table::new()));
    serde_path_to_error::deserialize(section).map_err(|error| SettingsError::Value {
        key: format!("{SECTION}.{}", error.path()),
        message: error.inner().message().to_owned(),
    })
}

fn unknown_key<'a>(
    path: &str,
    key: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> SettingsError {
    let full = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let nearest = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(known, key), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| full(known));
    SettingsError::UnknownKey { key: full(key), nearest }
}

#[cfg(test)]
impl Default for Settings {
    fn default() -> Self {
        Self::from_table(Table::new()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::from_table(text.parse().unwrap())
    }

    #[test]
    fn the_documented_file_holds_exactly_the_keys_that_the_code_knows() {
        let settings = Settings::default();
        settings.check().unwrap();
        let shown = Table::try_from(&settings).unwrap();
        let Some(Value::Table(documented)) = documented().unwrap().remove(SECTION) else {
            panic!("no [engine]")
        };
        assert_eq!(shown, documented);
    }

    #[test]
    fn each_documented_key_has_a_comment_above_it() {
        let lines: Vec<_> = DOCUMENTED.lines().collect();
        for pair in lines.windows(2) {
            let is_key = !pair[1].starts_with('#') && pair[1].contains(" = ");
            assert!(!is_key || pair[0].starts_with('#'), "{} has no comment", pair[1]);
        }
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let settings = parse("[engine]\nworkers = 2\n[control]\nanything = 1").unwrap();
        assert_eq!(settings, Settings { workers: 2, ..Settings::default() });
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn the_documented_timeouts_are_those_of_the_flow_table() {
        assert_eq!(Settings::default().connections.tracking(), Tracking::default());
        let strict = parse("[engine.connections]\nmidstream_pickup = false").unwrap();
        assert!(!strict.connections.tracking().midstream_pickup);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        for (text, expected) in [
            ("[engine]\nworker = 2", "unknown key engine.worker; did you mean engine.workers?"),
            ("[engin]\nworkers = 2", "unknown key engin; did you mean engine?"),
            (
                "[engine.packet_memory]\nhugepages = true",
                "unknown key engine.packet_memory.hugepages; did you mean \
                 engine.packet_memory.huge_pages?",
            ),
            ("[engine]\nzzz = 1", "unknown key engine.zzz; `vrouter --print-config`"),
            ("workers = 2", "unknown key workers;"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn an_impossible_value_is_named_with_its_key() {
        for (text, expected) in [
            ("[engine]\nworkers = 0", "engine.workers: 0 is not in 1 to 64"),
            ("[engine]\nworkers = \"two\"", "engine.workers: invalid type: string"),
            ("[engine]\nworkers = -1", "engine.workers: invalid value"),
            ("[engine]\ncpus = [1, 2]", "engine.cpus: 2 CPUs for 1 workers"),
            ("[engine]\nworkers = 2\ncpus = [3, 3]", "engine.cpus: CPU 3 is named twice"),
            ("[engine]\nidle = \"lazy\"", "engine.idle: unknown variant `lazy`"),
            ("[engine]\nmetrics = \"9300\"", "engine.metrics: \"9300\" is no address"),
            ("[engine]\nlog = \"=\"", "engine.log: \"=\" is no log level"),
            ("[engine]\nsocket = \"x.sock\"", "engine.socket: x.sock is not an absolute path"),
            ("[engine]\npacket_memory = 3", "engine.packet_memory: is a section"),
            ("[engine.packet_memory]\nframes = 1", "engine.packet_memory.frames: 1 is not in 64"),
            ("[engine.packet_memory]\nframe_bytes = 1500", "engine.packet_memory.frame_bytes:"),
            ("[engine.flow_table]\nfragments = 0", "engine.flow_table.fragments: 0 is not in 64"),
            (
                "[engine.connections]\nicmp_seconds = 0",
                "engine.connections.icmp_seconds: 0 is not in 1 to 2592000",
            ),
            ("engine = 1", "engine: is a section"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_it_was_named() {
        let path = Path::new("/nonexistent/vrouter.toml");
        assert_eq!(Settings::load(path, false).unwrap(), Settings::default());
        assert!(matches!(Settings::load(path, true), Err(SettingsError::Read { .. })));
    }
}
