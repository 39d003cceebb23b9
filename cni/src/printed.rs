//! What the runtime reads on standard output.

use std::{error::Error, io};

use serde_json::{Value, json};

use crate::network::version_of;

/// The versions of the specification that control speaks.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version to answer in if the configuration does not say.
pub(crate) const LATEST_VERSION: &str = VERSIONS[3];

/// An error as the specification has it (section 5).
#[derive(Debug)]
pub(crate) struct Failure {
    version: String,
    code: u32,
    message: String,
    details: String,
}

/// The answer to VERSION, in the version asked for.
pub(crate) fn versions(config: &[u8]) -> Vec<u8> {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let answer = json!({ "cniVersion": version_of(&config), "supportedVersions": VERSIONS });
    format!("{answer}\n").into_bytes()
}

impl Failure {
    pub(crate) fn new(code: u32, message: &str) -> Self {
        Self {
            version: LATEST_VERSION.to_owned(),
            code,
            message: message.to_owned(),
            details: String::new(),
        }
    }

    /// The environment is not as a runtime makes it.
    pub(crate) fn environment(message: &str) -> Self {
        Self::new(4, message)
    }

    pub(crate) fn io(message: &str, error: &io::Error) -> Self {
        Self::new(5, message).with_details(error)
    }

    pub(crate) fn in_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Adds an error and its causes.
    pub(crate) fn with_details(self, error: &dyn Error) -> Self {
        let mut details = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            details.push_str(": ");
            details.push_str(&error.to_string());
            cause = error.source();
        }
        self.with_text(details)
    }

    pub(crate) fn with_text(mut self, details: String) -> Self {
        self.details = details;
        self
    }

    /// The text for standard output.
    pub(crate) fn render(&self) -> Vec<u8> {
        let printed = json!({
            "cniVersion": self.version,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        });
        format!("{printed}\n").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_answered_in_the_version_asked_for_and_without_any() {
        let answer: Value =
            serde_json::from_slice(&versions(br#"{"cniVersion":"0.4.0"}"#)).unwrap();
        assert_eq!(answer["cniVersion"], "0.4.0");
        assert_eq!(answer["supportedVersions"][3], "1.1.0");
        let answer: Value = serde_json::from_slice(&versions(b"")).unwrap();
        assert_eq!(answer["cniVersion"], "1.1.0");
    }

    #[test]
    fn a_failure_has_the_fields_of_the_specification() {
        let failure = Failure::new(11, "away").in_version("0.3.1").with_text("why".to_owned());
        let printed: Value = serde_json::from_slice(&failure.render()).unwrap();
        let expected = json!({"cniVersion": "0.3.1", "code": 11, "msg": "away", "details": "why"});
        assert_eq!(printed, expected);
    }
}
