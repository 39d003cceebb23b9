//! How fast to send.

use std::{fmt, str::FromStr};

/// A rate that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Packets a second.
    Packets(f64),
    /// Bits a second of whole frames with FCS; preamble and gap between frames are not counted.
    Bits(f64),
    /// As fast as the port takes them.
    Max,
}

impl Rate {
    /// In packets a second, for frames of so many bytes on average; `None` without a limit.
    #[must_use]
    pub fn packets_per_second(self, frame_bytes_mean: f64) -> Option<f64> {
        match self {
            Self::Packets(rate) => Some(rate),
            Self::Bits(rate) => Some(rate / (frame_bytes_mean * 8.0)),
            Self::Max => None,
        }
    }
}

/// Not a rate.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no rate; give for example 20000, 50kpps, 1.5Mpps, 2Gbit/s or max")]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let error = || RateError(text.to_owned());
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| error())?;
        let (factor, unit) = match unit.as_bytes().first() {
            Some(b'k') => (1e3, unit.get(1..)),
            Some(b'M') => (1e6, unit.get(1..)),
            Some(b'G') => (1e9, unit.get(1..)),
            _ => (1.0, Some(unit)),
        };
        let rate = match unit {
            Some("" | "pps") => Self::Packets(number * factor),
            Some("bit/s" | "bps") => Self::Bits(number * factor),
            _ => return Err(error()),
        };
        if number > 0.0 { Ok(rate) } else { Err(error()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packets(rate) => formatter.pad(&format!("{rate:.0} pps")),
            Self::Bits(rate) => formatter.pad(&format!("{rate:.0} bit/s")),
            Self::Max => formatter.pad("max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(rate("20000"), Rate::Packets(20_000.0));
        assert_eq!(rate("1.5Mpps"), Rate::Packets(1.5e6));
        assert_eq!(rate("10Gbit/s"), Rate::Bits(1e10));
        assert_eq!(rate("64kbps"), Rate::Bits(64e3));
        assert_eq!(rate("max"), Rate::Max);
    }

    #[test]
    fn what_is_no_rate_is_told() {
        for text in ["", "0", "fast", "-1", "1.2.3", "5 Mpps", "5Gfoo", "kpps", "1ékpps"] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("is no rate; give for example"), "{error}");
        }
    }

    #[test]
    fn bits_are_those_of_frames_with_fcs() {
        assert_eq!(Rate::Bits(1e9).packets_per_second(125.0), Some(1e6));
        assert_eq!(Rate::Max.packets_per_second(64.0), None);
    }
}
