//! What this program itself needs of the network configuration: where control listens, and the
//! version to answer in. The rest is control's business.

use std::path::PathBuf;

use control_api::connect::CONTROL_SOCKET;
use serde_json::Value;

use crate::printed::{Failure, LATEST_VERSION};

/// Where to ask, and how to answer.
#[derive(Debug)]
pub(crate) struct Network {
    /// Control's socket: the key `socket`, or the default.
    pub(crate) socket: PathBuf,
    /// `cniVersion` of the configuration.
    pub(crate) version: String,
}

impl Network {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// Fails if it is not a JSON object, or `socket` is not a path.
    pub(crate) fn parse(config: &[u8]) -> Result<Self, Failure> {
        let value: Value = serde_json::from_slice(config).map_err(|error| {
            Failure::new(6, "the network configuration is not JSON").with_details(&error)
        })?;
        let version = version_of(&value);
        let socket = match value.get("socket") {
            None => PathBuf::from(CONTROL_SOCKET),
            Some(Value::String(path)) if path.starts_with('/') => PathBuf::from(path),
            Some(other) => {
                let message =
                    format!("the network configuration's socket: {other} is not an absolute path");
                return Err(Failure::new(7, &message).in_version(&version));
            }
        };
        Ok(Self { socket, version })
    }
}

/// The version that a configuration asks for; the latest if it says nothing.
pub(crate) fn version_of(config: &Value) -> String {
    config.get("cniVersion").and_then(Value::as_str).unwrap_or(LATEST_VERSION).to_owned()
}
