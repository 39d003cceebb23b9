//! Delegation to an IPAM plugin: run as the specification says (section 4), with our caller's
//! environment.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use control_api::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{network_config::NetworkConfig, result::addresses};
use crate::attachment::{AttachmentKey, Delegate};

/// The plugin did not know the verb: it is older than the specification.
const CODE_ENVIRONMENT: u32 = 4;

/// Why an IPAM plugin did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum DelegateError {
    #[error("there is no IPAM plugin {plugin} in CNI_PATH ({path}): install it, or mend ipam.type")]
    NotFound { plugin: String, path: String },

    #[error("cannot run the IPAM plugin {plugin}")]
    Run {
        plugin: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("the IPAM plugin {plugin} has not ended within {seconds} s")]
    Timeout { plugin: PathBuf, seconds: u64 },

    #[error("the IPAM plugin {plugin} says: {message}{}", in_brackets(details))]
    Failed { plugin: String, code: u32, message: String, details: String },

    #[error("the IPAM plugin {plugin} answered without an address: {output}")]
    NoAddress { plugin: String, output: String },
}

/// An error as plugins print it.
#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    code: u32,
    #[serde(default, alias = "message")]
    msg: String,
    #[serde(default)]
    details: String,
}

impl DelegateError {
    /// The plugin's own code if it said one.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::NotFound { .. } => CODE_ENVIRONMENT,
            Self::Run { .. } => 5,
            Self::Timeout { .. } => 11,
            Self::Failed { code, .. } if *code != 0 => *code,
            Self::Failed { .. } | Self::NoAddress { .. } => 6,
        }
    }

    /// Whether the plugin only said that it does not know the verb.
    #[must_use]
    pub fn is_unknown_verb(&self) -> bool {
        matches!(self, Self::Failed { code: CODE_ENVIRONMENT | 1, .. })
    }
}

/// An IPAM plugin and whom it is asked for.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The plugin, and what it is told each time.
    pub delegate: &'a Delegate,
    /// The attachment; none for STATUS and GC.
    pub key: Option<&'a AttachmentKey>,
    /// The namespace's path; may be empty.
    pub netns: &'a str,
}

impl Call<'_> {
    /// ADD: the addresses that the plugin gives.
    ///
    /// # Errors
    ///
    /// Fails if the plugin does, or gives none.
    pub async fn add(&self) -> Result<Vec<IpAddr>, DelegateError> {
        let output = self.run("ADD").await?;
        let result: Option<Map<String, Value>> = serde_json::from_slice(&output).ok();
        let given = result.map(|result| addresses(&result)).unwrap_or_default();
        if given.is_empty() {
            return Err(DelegateError::NoAddress {
                plugin: self.delegate.plugin.clone(),
                output: String::from_utf8_lossy(&output).into_owned(),
            });
        }
        Ok(given)
    }

    /// Runs a verb and returns what the plugin prints.
    ///
    /// # Errors
    ///
    /// Fails if there is no such plugin, it does not end in time, or says that it failed.
    pub async fn run(&self, verb: &str) -> Result<Vec<u8>, DelegateError> {
        let plugin = find(&self.delegate.plugin, &self.delegate.path)?;
        let limited = timeout(limits::IPAM, self.execute(&plugin, verb)).await;
        let Ok(result) = limited else {
            return Err(DelegateError::Timeout { plugin, seconds: limits::IPAM.as_secs() });
        };
        let output = result.map_err(|source| DelegateError::Run { plugin, source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Printed {
            code: 0,
            msg: format!("it ended with {}", output.status),
            details: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
        Err(DelegateError::Failed {
            plugin: self.delegate.plugin.clone(),
            code: printed.code,
            message: printed.msg,
            details: printed.details,
        })
    }

    async fn execute(&self, plugin: &Path, verb: &str) -> io::Result<std::process::Output> {
        let mut command = Command::new(plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", &self.delegate.path)
            .env("CNI_ARGS", &self.delegate.args)
            .env("CNI_NETNS", self.netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(key) = self.key {
            command.env("CNI_CONTAINERID", &key.container_id).env("CNI_IFNAME", &key.ifname);
        }
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that has read enough may close its end: what it says counts.
            let _ = stdin.write_all(self.delegate.config.as_bytes()).await;
        }
        child.wait_with_output().await
    }
}

impl Delegate {
    /// The delegate that a configuration names, if it names one.
    #[must_use]
    pub fn from_config(config: &NetworkConfig, path: &str, args: &str) -> Option<Self> {
        Some(Self {
            plugin: config.ipam_plugin.clone()?,
            path: path.to_owned(),
            args: args.to_owned(),
            config: config.text.clone(),
        })
    }
}

fn in_brackets(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(" ({details})") }
}

/// Looks through the folders of `CNI_PATH`.
fn find(plugin: &str, path: &str) -> Result<PathBuf, DelegateError> {
    std::env::split_paths(path)
        .map(|folder| folder.join(plugin))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| DelegateError::NotFound { plugin: plugin.to_owned(), path: path.to_owned() })
}
