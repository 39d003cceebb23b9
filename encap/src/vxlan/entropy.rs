//! Numbers in the outer header by which the underlay tells inner flows apart.

/// Lowest source port: the range of dynamic ports, as RFC 7348 section 5 recommends.
pub const ENTROPY_PORT_MIN: u16 = 49_152;
/// Highest source port.
pub const ENTROPY_PORT_MAX: u16 = 65_535;

/// 2^64 divided by the golden ratio, made odd. Multiplying by it carries every bit of a hash into
/// the high ones, so that a hash of 32 bits, or one that is weak in its high bits, serves as well.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The outer UDP source port of a flow, from 49152 to 65535.
///
/// `flow_hash` is the hash of the inner flow that is there anyway; one of 32 bits is widened. The
/// same flow gets the same port, so that the underlay does not reorder it.
#[must_use]
pub const fn entropy_port(flow_hash: u64) -> u16 {
    let ports = (ENTROPY_PORT_MAX as u64).wrapping_sub(ENTROPY_PORT_MIN as u64).wrapping_add(1);
    ENTROPY_PORT_MIN.wrapping_add(scale(flow_hash, ports))
}

/// The outer IPv6 flow label of a flow, 20 bits and not zero (RFC 6437 section 3, RFC 6438).
#[must_use]
pub const fn flow_label(flow_hash: u64) -> u32 {
    let label = (flow_hash.wrapping_mul(SPREAD) >> 44) as u32;
    // Zero would say that there is no label.
    if label == 0 { 1 } else { label }
}

/// Maps a hash to `0..range`: the high half of the spread hash times the range, without division.
const fn scale(flow_hash: u64, range: u64) -> u16 {
    ((flow_hash.wrapping_mul(SPREAD) >> 32).wrapping_mul(range) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// χ² over 64 bins of 10,000 flows: 63 degrees of freedom, mean 63, standard deviation 11.2.
    /// 120 is five of them above: a good spread fails once in ten million.
    const CHI_SQUARED_MAX: f64 = 120.0;

    fn chi_squared(ports: impl Iterator<Item = u16>) -> f64 {
        let mut bins = [0_u32; 64];
        let mut flows = 0_u32;
        for port in ports {
            bins[usize::from((port - ENTROPY_PORT_MIN) / 256)] += 1;
            flows += 1;
        }
        let expected = f64::from(flows) / 64.0;
        bins.iter().map(|&seen| (f64::from(seen) - expected).powi(2) / expected).sum()
    }

    /// The `SplitMix64` generator: what a keyed hash of distinct flows looks like.
    fn hash(index: u64) -> u64 {
        let mut z = index.wrapping_mul(SPREAD).wrapping_add(0x1234_5678_9abc_def1);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn ten_thousand_flows_spread_evenly_over_the_ports() {
        for (name, mask) in
            [("64 bits", u64::MAX), ("low 32", 0xffff_ffff), ("high 32", 0xffff_ffff << 32)]
        {
            let chi = chi_squared((0..10_000).map(|flow| entropy_port(hash(flow) & mask)));
            assert!(chi < CHI_SQUARED_MAX, "{name}: {chi}");
        }
    }

    #[test]
    fn ten_thousand_flows_spread_evenly_over_few_queues() {
        // A receiver that picks its queue by the port's low bits.
        let mut queues = [0_u32; 8];
        for flow in 0..10_000 {
            queues[usize::from(entropy_port(hash(flow)) % 8)] += 1;
        }
        assert!(queues.iter().all(|&flows| (1100..1400).contains(&flows)), "{queues:?}");
    }

    #[test]
    fn the_extremes_of_the_hash_stay_in_range() {
        for flow_hash in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
            assert!(entropy_port(flow_hash) >= ENTROPY_PORT_MIN);
            assert!((1..=0x000f_ffff).contains(&flow_label(flow_hash)));
        }
    }

    #[test]
    fn the_whole_range_is_reached() {
        let mut seen = [false; 16_384];
        for index in 0..400_000 {
            seen[usize::from(entropy_port(hash(index)) - ENTROPY_PORT_MIN)] = true;
        }
        assert!(seen.iter().all(|&port| port));
    }

    proptest! {
        #[test]
        fn a_port_is_dynamic_and_a_label_is_20_bits_and_set(flow_hash: u64) {
            prop_assert!(entropy_port(flow_hash) >= ENTROPY_PORT_MIN);
            prop_assert!((1..=0x000f_ffff).contains(&flow_label(flow_hash)));
        }
    }
}
