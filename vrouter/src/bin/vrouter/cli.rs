//! The command line of the engine.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, Parser};

use crate::settings::{IdleSetting, Metrics, Settings};

/// Where the configuration is unless told otherwise.
pub(crate) const CONFIG_PATH: &str = "/etc/vrouter/vrouter.toml";

const EXAMPLES: &str = "\
Examples:
  vrouter                                  run with /etc/vrouter/vrouter.toml, or the defaults without it
  vrouter --config ./vrouter.toml --check  is the configuration right?
  vrouter --print-config                   every setting with its meaning and default
  vrouter --check-host                     what on this machine costs packets, and how to change it
  vrouter --workers 2 --idle busy          two workers that never sleep, whatever the file says

Signals: SIGTERM and SIGINT stop the engine in order: ports are closed, and the kernel has the uplink for itself.

Exit codes:
  0  stopped when told to, or the check found no problem
  1  the engine could not start or had to give up; --check-host: something does not work here
  2  the command line or the configuration is wrong";

/// Forwards packets between the pods of this node, its own stack and other nodes.
///
/// The engine knows nothing of Kubernetes: vrouter-control programs it over the socket, vrctl shows
/// what it does.
#[derive(Debug, Parser)]
#[command(name = "vrouter", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The configuration file. Without this option a missing file means the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is right, 2 if it is wrong.
    #[arg(long, conflicts_with_all = ["check_host", "print_config"])]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) host: HostOptions,
    /// Print every setting with its meaning and default, and exit.
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Instead of engine.socket: the unix socket of the programming interface.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Instead of engine.workers: how many worker threads.
    #[arg(long, value_name = "WORKERS")]
    workers: Option<u16>,
    /// Instead of engine.cpus: the workers' CPUs, such as 2,3.
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    cpus: Option<Vec<u16>>,
    /// Instead of engine.idle: adaptive or busy.
    #[arg(long, value_name = "MODE", value_enum)]
    idle: Option<IdleSetting>,
    /// Instead of engine.metrics: the address and port of the metrics, or "" for none.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<Metrics>,
    /// Instead of engine.log: error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

/// Options of the look at the machine.
#[derive(Args, Debug)]
pub(crate) struct HostOptions {
    /// Check this machine (cores, huge pages, interrupts, NUMA, the uplink's XDP support) and exit.
    #[arg(long, conflicts_with = "print_config")]
    pub(crate) check_host: bool,
    /// Print the result of --check-host as JSON.
    #[arg(long, requires = "check_host")]
    pub(crate) json: bool,
    /// The interface that --check-host looks at as the uplink; control's, if not given.
    #[arg(long, value_name = "INTERFACE", requires = "check_host")]
    pub(crate) uplink: Option<String>,
}

impl Cli {
    /// The configuration file, and whether the operator named it: then it must be there.
    pub(crate) fn config(&self) -> (&Path, bool) {
        match &self.config {
            Some(path) => (path, true),
            None => (Path::new(CONFIG_PATH), false),
        }
    }

    /// Puts the command line's settings in the place of the file's.
    pub(crate) fn override_settings(&self, settings: &mut Settings) {
        fn replace<T: Clone>(setting: &mut T, option: Option<&T>) {
            if let Some(value) = option {
                setting.clone_from(value);
            }
        }
        replace(&mut settings.socket, self.socket.as_ref());
        replace(&mut settings.workers, self.workers.as_ref());
        replace(&mut settings.cpus, self.cpus.as_ref());
        replace(&mut settings.idle, self.idle.as_ref());
        replace(&mut settings.metrics, self.metrics.as_ref());
        replace(&mut settings.log, self.log.as_ref());
    }
}

impl std::str::FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Metrics {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address: Result<SocketAddr, _> = text.parse();
        address.map(|address| Self(Some(address))).map_err(|_| {
            format!("\"{text}\" is no address and port; write 127.0.0.1:9300, [::1]:9300, or \"\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_each_option_has_a_help_text() {
        let mut command = Cli::command();
        command.build();
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.len() > 10, "{}", argument.get_id());
        }
        Cli::command().debug_assert();
    }

    #[test]
    fn options_take_the_place_of_settings() {
        let cli = Cli::parse_from(["vrouter", "--workers", "2", "--cpus", "2,3", "--metrics", ""]);
        let mut settings = Settings::default();
        cli.override_settings(&mut settings);
        assert_eq!((settings.workers, settings.cpus.as_slice()), (2, &[2, 3][..]));
        assert_eq!(settings.metrics, Metrics(None));
        assert_eq!(settings.log, Settings::default().log);
    }
}
