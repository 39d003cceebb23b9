//! What can be asked: may this end open a connection to that one?

use std::{fmt, net::IpAddr, str::FromStr};

use control::{cluster::Family, names::PodName};
use serde_json::{Map, Value};

/// A connection that somebody might open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Question {
    /// Who opens it.
    pub(crate) from: EndName,
    /// Who is to answer.
    pub(crate) to: EndName,
    /// What is above IP.
    pub(crate) protocol: Protocol,
    /// The destination port; `None` for ICMP.
    pub(crate) port: Option<u16>,
    /// The addresses to use where an end has both families.
    pub(crate) family: Option<Family>,
}

/// One end of a connection, as it was asked for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum EndName {
    /// A pod by name.
    Pod(PodName),
    /// Whoever has this address.
    Address(IpAddr),
}

/// A protocol above IP that policies can tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Why a question cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("a probe is an object such as {EXAMPLE}, and this is {found}")]
    NotAnObject { found: &'static str },
    #[error("{field} is missing; write {expected}")]
    Missing { field: &'static str, expected: &'static str },
    #[error("{field}: expected {expected}, found {found}")]
    Field { field: &'static str, expected: &'static str, found: String },
    #[error("{field}: it has both pod and ip; say one of them")]
    PodAndIp { field: &'static str },
    #[error("port is missing; {protocol} needs one from 1 to 65535")]
    PortMissing { protocol: Protocol },
    #[error("ICMP has no ports; leave port out")]
    PortOfIcmp,
}

const EXAMPLE: &str =
    r#"{"from": {"pod": "ns/a"}, "to": {"ip": "10.0.0.1"}, "protocol": "TCP", "port": 80}"#;
const END: &str = r#"{"pod": "namespace/name"} or {"ip": "ADDRESS"}"#;
const POD: &str = "namespace/name";
const ADDRESS: &str = "an address such as 10.244.1.5 or fd00::5";
const PROTOCOL: &str = "TCP, UDP, SCTP or ICMP";
const PORT: &str = "a number from 1 to 65535";
const FAMILY: &str = "4 or 6";

/// Why an end on the command line is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected namespace/pod, or an address such as 10.244.1.5 or fd00::5")]
pub(crate) struct ParseEndError;

/// Why a protocol on the command line is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {PROTOCOL}")]
pub(crate) struct ParseQuestionProtocolError;

impl Question {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// Fails without a port if the protocol has them, and with one if it has none.
    pub(crate) fn new(
        from: EndName,
        to: EndName,
        protocol: Protocol,
        port: Option<u16>,
        family: Option<Family>,
    ) -> Result<Self, QuestionError> {
        match (protocol, port) {
            (Protocol::Icmp, Some(_)) => Err(QuestionError::PortOfIcmp),
            (Protocol::Tcp | Protocol::Udp | Protocol::Sctp, None) => {
                Err(QuestionError::PortMissing { protocol })
            }
            _ => Ok(Self { from, to, protocol, port, family }),
        }
    }

    /// The families to try, in this order: the one that is asked for matters only where both ends
    /// have both, and IPv4 comes first.
    pub(crate) fn families(&self) -> [Family; 2] {
        match self.family {
            Some(Family::V6) => [Family::V6, Family::V4],
            Some(Family::V4) | None => [Family::V4, Family::V6],
        }
    }

    /// Reads an entry of a file of probes. Fields that mean nothing here are ignored, as are those
    /// that are `null`. Without a protocol it is TCP, as in policies.
    ///
    /// # Errors
    ///
    /// Fails with the field that says nothing possible.
    pub(crate) fn from_json(value: &Value) -> Result<Self, QuestionError> {
        let Value::Object(fields) = value else {
            return Err(QuestionError::NotAnObject { found: kind(value) });
        };
        let from = end(fields, "from")?;
        let to = end(fields, "to")?;
        let protocol = match field(fields, "protocol") {
            None => Protocol::Tcp,
            Some(value) => value
                .as_str()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| unexpected("protocol", PROTOCOL, value))?,
        };
        let port = field(fields, "port").map(|value| {
            let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
            number.filter(|port| *port > 0).ok_or_else(|| unexpected("port", PORT, value))
        });
        let family = field(fields, "family").map(|value| match value.as_u64() {
            Some(4) => Ok(Family::V4),
            Some(6) => Ok(Family::V6),
            _ => Err(unexpected("family", FAMILY, value)),
        });
        Self::new(from, to, protocol, port.transpose()?, family.transpose()?)
    }
}

impl Protocol {
    /// The number in the IP header, as IANA assigns it.
    pub(crate) fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Sctp, _) => 132,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
        }
    }

    /// The protocol of a number in an IP header; `None` if policies cannot tell it from others.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            1 | 58 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// The word that policies use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Protocol {
    type Err = ParseQuestionProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];
        let found = all.into_iter().find(|known| known.word().eq_ignore_ascii_case(text));
        found.ok_or(ParseQuestionProtocolError)
    }
}

impl FromStr for EndName {
    type Err = ParseEndError;

    fn from_str(text: &str) -> Result<Self, ParseEndError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        // A block of addresses is not a pod of that namespace.
        let is_block = text.parse::<ipnet::IpNet>().is_ok();
        pod_name(text).filter(|_| !is_block).map(Self::Pod).ok_or(ParseEndError)
    }
}

impl fmt::Display for EndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "{pod}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

fn pod_name(text: &str) -> Option<PodName> {
    let (namespace, name) = text.split_once('/')?;
    let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    is_whole.then(|| PodName::new(namespace, name))
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn end(fields: &Map<String, Value>, name: &'static str) -> Result<EndName, QuestionError> {
    let value = field(fields, name).ok_or(QuestionError::Missing { field: name, expected: END })?;
    let Value::Object(fields) = value else { return Err(unexpected(name, END, value)) };
    match (field(fields, "pod"), field(fields, "ip")) {
        (Some(_), Some(_)) => Err(QuestionError::PodAndIp { field: name }),
        (Some(pod), None) => {
            let found = pod.as_str().and_then(pod_name);
            found.map(EndName::Pod).ok_or_else(|| unexpected(name, POD, pod))
        }
        (None, Some(ip)) => {
            let found = ip.as_str().and_then(|text| text.parse().ok());
            found.map(EndName::Address).ok_or_else(|| unexpected(name, ADDRESS, ip))
        }
        (None, None) => Err(unexpected(name, END, value)),
    }
}

fn unexpected(field: &'static str, expected: &'static str, found: &Value) -> QuestionError {
    /// Characters of a value that an error repeats: enough to find it.
    const SHOWN_MAX: usize = 60;
    let text = found.to_string();
    let found = match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    };
    QuestionError::Field { field, expected, found }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Question, String> {
        Question::from_json(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_probe_is_two_ends_a_protocol_and_a_port() {
        let value = json!({"from": {"pod": "a/b", "note": 1}, "to": {"ip": "fd00::1", "pod": null},
            "protocol": "SCTP", "port": 80, "family": 6, "name": "ignored"});
        let expected = Question {
            from: EndName::Pod(PodName::new("a", "b")),
            to: EndName::Address("fd00::1".parse().unwrap()),
            protocol: Protocol::Sctp,
            port: Some(80),
            family: Some(Family::V6),
        };
        assert_eq!(parse(&value), Ok(expected));
        let least = json!({"from": {"pod": "a/b"}, "to": {"ip": "10.0.0.1"}, "port": 53});
        let least = parse(&least).unwrap();
        assert_eq!((least.protocol, least.family), (Protocol::Tcp, None));
        let ping = json!({"from": {"pod": "a/b"}, "to": {"ip": "10.0.0.1"}, "protocol": "icmp"});
        assert_eq!(parse(&ping).unwrap().port, None);
    }

    #[test]
    fn a_bad_field_is_named_with_what_it_should_be() {
        let good = json!({"from": {"pod": "a/b"}, "to": {"ip": "10.0.0.1"},
            "protocol": "TCP", "port": 80});
        for (field, value, expected) in [
            ("from", json!({"pod": "b"}), "from: expected namespace/name, found \"b\""),
            ("from", json!("a/b"), "from: expected {\"pod\""),
            ("from", Value::Null, "from is missing"),
            ("to", json!({"ip": "10.0.0"}), "to: expected an address"),
            ("to", json!({"ip": "10.0.0.1", "pod": "a/b"}), "both pod and ip"),
            ("to", json!({"name": "a/b"}), "to: expected {\"pod\""),
            ("protocol", json!("HTTP"), "protocol: expected TCP, UDP, SCTP or ICMP"),
            ("protocol", json!("ICMP"), "leave port out"),
            ("port", Value::Null, "port is missing; TCP needs one"),
            ("port", json!(0), "port: expected a number from 1 to 65535, found 0"),
            ("port", json!(65536), "found 65536"),
            ("port", json!("http"), "found \"http\""),
            ("family", json!(5), "family: expected 4 or 6, found 5"),
            ("family", json!("x".repeat(1000)), "xxx…"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = parse(&bad).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse(&json!([])).unwrap_err().contains("this is a list"));
    }

    #[test]
    fn an_end_is_a_pod_or_an_address() {
        assert_eq!("a/b".parse(), Ok(EndName::Pod(PodName::new("a", "b"))));
        assert_eq!("fd00::1".parse(), Ok(EndName::Address("fd00::1".parse().unwrap())));
        for text in ["a", "a/", "/b", "a/b/c", "10.0.0.256", "10.0.0.0/8"] {
            assert_eq!(text.parse::<EndName>(), Err(ParseEndError), "{text}");
        }
    }
}
