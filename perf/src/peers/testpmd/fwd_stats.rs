//! What testpmd tells when it has stopped forwarding.

/// Its counters since it was started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FwdStats {
    /// Packets that came in, on all ports.
    pub received: u64,
    /// Packets that left.
    pub sent: u64,
    /// Cycles of the time-stamp counter for them.
    pub cycles: u64,
}

impl FwdStats {
    /// Reads the sums over all ports; `None` if they are not there or there was no packet.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (_, sums) = text.split_once("Accumulated forward statistics")?;
        let after = |what: &str| {
            let (_, rest) = sums.split_once(what)?;
            rest.trim_start().split(|symbol: char| !symbol.is_ascii_digit()).next()?.parse().ok()
        };
        Some(Self {
            received: after("RX-packets:")?,
            sent: after("TX-packets:")?,
            cycles: after("total cycles=")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "\
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 10342080       RX-dropped: 0             RX-total: 10342080
  TX-packets: 0              TX-dropped: 0             TX-total: 0
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 10342080       RX-dropped: 0             RX-total: 10342080
  TX-packets: 10342079       TX-dropped: 1             TX-total: 10342080
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

  CPU cycles/packet=113.39 (total cycles=1172677588 / total macswap packets=10342080) at 2600 MHz
";

    #[test]
    fn the_sums_over_all_ports_are_read() {
        let stats = FwdStats { received: 10_342_080, sent: 10_342_079, cycles: 1_172_677_588 };
        assert_eq!(FwdStats::parse(STATS), Some(stats));
    }

    #[test]
    fn what_has_no_sums_gives_nothing() {
        assert_eq!(FwdStats::parse("Telling cores to stop...\nDone.\n"), None);
        let (without_cycles, _) = STATS.split_once("CPU cycles").unwrap();
        assert_eq!(FwdStats::parse(without_cycles), None);
    }
}
