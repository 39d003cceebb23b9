//! Packets and bytes in both directions, of whatever has them: ports and tunnels.

use serde::Serialize;

use crate::{units, watch::Elapsed};

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Traffic {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
}

/// What they rose by in a second; none for what was not there before.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON output")]
pub(crate) struct TrafficRates {
    rx_packets_per_second: Option<u64>,
    rx_bits_per_second: Option<u64>,
    tx_packets_per_second: Option<u64>,
    tx_bits_per_second: Option<u64>,
}

impl Traffic {
    /// Cells for the columns RX PACKETS, RX BYTES, TX PACKETS and TX BYTES.
    pub(crate) fn cells(&self) -> [String; 4] {
        [
            units::count(self.rx_packets),
            units::bytes(self.rx_bytes),
            units::count(self.tx_packets),
            units::bytes(self.tx_bytes),
        ]
    }

    /// The rates since `before`.
    pub(crate) fn rates(self, before: Option<Self>, elapsed: Elapsed) -> TrafficRates {
        let rate = |counter: fn(Self) -> u64| {
            before.and_then(|before| elapsed.rate(counter(before), counter(self)))
        };
        TrafficRates {
            rx_packets_per_second: rate(|it| it.rx_packets),
            rx_bits_per_second: rate(|it| it.rx_bytes.saturating_mul(8)),
            tx_packets_per_second: rate(|it| it.tx_packets),
            tx_bits_per_second: rate(|it| it.tx_bytes.saturating_mul(8)),
        }
    }
}

impl TrafficRates {
    /// Cells for the columns RX PACKETS/S, RX BIT/S, TX PACKETS/S and TX BIT/S.
    pub(crate) fn cells(&self) -> [String; 4] {
        [
            self.rx_packets_per_second,
            self.rx_bits_per_second,
            self.tx_packets_per_second,
            self.tx_bits_per_second,
        ]
        .map(units::optional_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_packets_and_bits_and_unknown_at_first() {
        let now = Traffic { rx_packets: 10, rx_bytes: 1000, tx_packets: 3, tx_bytes: 300 };
        let before = Traffic { rx_packets: 4, rx_bytes: 400, ..Traffic::default() };
        let rates = now.rates(Some(before), Elapsed::SECOND);
        assert_eq!(rates.cells(), ["6", "4.80 k", "3", "2.40 k"]);
        assert_eq!(now.rates(None, Elapsed::SECOND).cells(), ["", "", "", ""]);
        assert_eq!(now.cells(), ["10", "1000 B", "3", "300 B"]);
    }
}
