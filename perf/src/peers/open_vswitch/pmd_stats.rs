//! What `ovs-appctl dpif-netdev/pmd-stats-show` and `dpctl/dump-flows` tell.

/// A poll-mode thread's counters since its start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PmdStats {
    /// Packets that came in.
    pub received: u64,
    /// Packets whose flow had to be asked for above the fast path.
    pub misses: u64,
    /// Cycles of the time-stamp counter, idle ones included.
    pub cycles: u64,
}

impl PmdStats {
    /// Reads the section of the thread on `cpu`; `None` if it is not there or has not run yet.
    #[must_use]
    pub fn parse(text: &str, cpu: usize) -> Option<Self> {
        let end = format!("core_id {cpu}:");
        let section = text.lines().skip_while(|line| !line.trim_end().ends_with(&end)).skip(1);
        let fields = section
            .take_while(|line| line.starts_with(' '))
            .filter_map(|line| line.trim().split_once(": "));
        let (mut received, mut misses, mut cycles) = (None, 0, None);
        for (name, value) in fields {
            match name {
                "packets received" => received = value.parse().ok(),
                "miss with success upcall" | "miss with failed upcall" => {
                    misses += value.parse().unwrap_or(0);
                }
                // The number, and in brackets its share.
                "idle cycles" | "processing cycles" => {
                    let count: u64 = value.split(' ').next()?.parse().ok()?;
                    cycles = Some(cycles.unwrap_or(0) + count);
                }
                _ => {}
            }
        }
        Some(Self { received: received?, misses, cycles: cycles? })
    }

    /// What came in and passed since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            misses: self.misses.saturating_sub(earlier.misses),
            cycles: self.cycles.saturating_sub(earlier.cycles),
        }
    }
}

/// Packets of tracked connections that were forwarded so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TrackedPackets {
    /// Of connections that had seen no reply.
    pub new: u64,
    /// Of the others.
    pub established: u64,
}

impl TrackedPackets {
    /// Reads a dump of the datapath's flows.
    #[must_use]
    pub fn parse(flows: &str) -> Self {
        let of = |state: &str| {
            let lines = flows.lines().filter_map(|line| line.split_once("ct_state("));
            lines
                .filter(|(_, rest)| {
                    rest.split(')').next().is_some_and(|states| states.contains(state))
                })
                .filter_map(|(_, rest)| rest.split_once("packets:")?.1.split(',').next())
                .filter_map(|packets| packets.parse::<u64>().ok())
                .sum()
        };
        Self { new: of("+new"), established: of("+est") }
    }
}

/// Packets sent to a port, in the answer of `ovs-ofctl dump-ports`.
#[must_use]
pub fn packets_sent(ports: &str) -> Option<u64> {
    let (_, rest) = ports.split_once("tx pkts=")?;
    rest.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "\
pmd thread numa_id 0 core_id 1:
  packets received: 5344704
  packet recirculations: 0
  avg. datapath passes per packet: 1.00
  phwol hits: 0
  simple match hits: 5344672
  emc hits: 0
  megaflow hits: 0
  avg. subtable lookups per megaflow hit: 0.00
  miss with success upcall: 30
  miss with failed upcall: 2
  avg. packets per output batch: 32.00
  idle cycles: 1000 (0.00%)
  processing cycles: 1198528592 (100.00%)
  avg cycles per packet: 224.25 (1198528592/5344704)
  avg processing cycles per packet: 224.25 (1198528592/5344704)
main thread:
  packets received: 7
  avg cycles per packet: 9.00 (63/7)
";

    #[test]
    fn a_threads_packets_and_cycles_are_read() {
        let stats = PmdStats { received: 5_344_704, misses: 32, cycles: 1_198_529_592 };
        assert_eq!(PmdStats::parse(STATS, 1), Some(stats));
    }

    #[test]
    fn a_thread_that_is_not_there_or_idle_gives_nothing() {
        assert_eq!(PmdStats::parse(STATS, 0), None);
        assert_eq!(PmdStats::parse(STATS, 11), None);
        let idle = "pmd thread numa_id 0 core_id 1:\n  packets received: 0\n  emc hits: 0\n";
        assert_eq!(PmdStats::parse(idle, 1), None);
        assert_eq!(PmdStats::parse("", 1), None);
    }

    #[test]
    fn new_connections_are_told_from_established_ones() {
        let flows = "\
flow-dump from pmd on cpu core: 1
ct_state(+new+trk),recirc_id(0x3),in_port(6),eth_type(0x0800), packets:152, bytes:9, actions:4
ct_state(-new+est+trk),recirc_id(0x3),in_port(6), packets:1000, bytes:9, used:0.0s, actions:4
ct_state(-trk),recirc_id(0),in_port(6), packets:1152, bytes:9, actions:ct,recirc(0x3)
";
        let packets = TrackedPackets { new: 152, established: 1000 };
        assert_eq!(TrackedPackets::parse(flows), packets);
    }

    #[test]
    fn packets_sent_are_read_from_a_ports_line() {
        let ports = "OFPST_PORT reply (xid=0x4): 1 ports
  port  sink: rx pkts=0, bytes=0, drop=0, errs=0, frame=?, over=?, crc=?
           tx pkts=11401120, bytes=0, drop=0, errs=0, coll=?
";
        assert_eq!(packets_sent(ports), Some(11_401_120));
        assert_eq!(packets_sent("OFPST_PORT reply (xid=0x4): 0 ports"), None);
    }
}
