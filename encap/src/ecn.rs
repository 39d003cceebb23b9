//! ECN across tunnels (RFC 6040) and DSCP across tunnels (RFC 2983).
//!
//! The outer header of a tunnel carries congestion marks and a forwarding class of its own. On the
//! way in they are made from the inner header; on the way out the congestion marks are merged back.
//! The class is not: in both models of RFC 2983 used here the inner DSCP leaves the tunnel as it
//! entered.

/// The two bits of Explicit Congestion Notification (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand ECN.
    #[default]
    NotEct = 0b00,
    /// ECN-capable, codepoint 1 (low-latency senders use it, RFC 9331).
    Ect1 = 0b01,
    /// ECN-capable, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// All codepoints in the order of their values.
    pub const ALL: [Self; 4] = [Self::NotEct, Self::Ect1, Self::Ect0, Self::Ce];

    /// The low two bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// A Differentiated Services codepoint: six bits (RFC 2474).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Dscp(u8);

impl Dscp {
    /// The largest codepoint.
    pub const MAX: u8 = 63;

    /// The codepoint, if `value` fits into six bits.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// The number, 0–63.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// The IPv4 type of service byte or the IPv6 traffic class: six bits of DSCP, two of ECN.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct TrafficClass(pub u8);

impl TrafficClass {
    /// Puts both fields together.
    #[must_use]
    pub const fn new(dscp: Dscp, ecn: Ecn) -> Self {
        Self((dscp.0 << 2) | ecn as u8)
    }

    /// Forwarding class.
    #[must_use]
    pub const fn dscp(self) -> Dscp {
        Dscp(self.0 >> 2)
    }

    /// Congestion mark.
    #[must_use]
    pub const fn ecn(self) -> Ecn {
        Ecn::from_bits(self.0)
    }

    /// The same class with another congestion mark.
    #[must_use]
    pub const fn with_ecn(self, ecn: Ecn) -> Self {
        Self((self.0 & !0b11) | ecn as u8)
    }
}

/// How the outer ECN field is made (RFC 6040 section 4.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum EcnMode {
    /// Outer = inner. The default; the egress must understand RFC 6040, RFC 4301 or RFC 3168.
    #[default]
    Normal,
    /// Outer = Not-ECT, for an egress that would not merge the mark back.
    Compatibility,
}

/// How the outer DSCP is made (RFC 2983 section 3).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DscpModel {
    /// Outer = inner: the underlay sees the packet's own class.
    #[default]
    Uniform,
    /// The tunnel has one class, whatever it carries.
    Pipe(Dscp),
}

/// The outer traffic class of a packet that enters a tunnel.
#[must_use]
pub const fn encapsulate(inner: TrafficClass, dscp: DscpModel, ecn: EcnMode) -> TrafficClass {
    let dscp = match dscp {
        DscpModel::Uniform => inner.dscp(),
        DscpModel::Pipe(fixed) => fixed,
    };
    let ecn = match ecn {
        EcnMode::Normal => inner.ecn(),
        EcnMode::Compatibility => Ecn::NotEct,
    };
    TrafficClass::new(dscp, ecn)
}

/// How unusual a pair of marks is that arrives at a tunnel's egress (RFC 6040 section 4.2).
///
/// These pairs should not occur: something on the path tampers with the field, or a tunnel endpoint
/// is misconfigured. RFC 6040 wants them to be loggable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EcnAnomaly {
    /// Possibly dangerous, "(!)": ECT(1) inside ECT(0).
    Possible,
    /// Always potentially dangerous, "(!!!)".
    Certain,
}

/// What becomes of a packet's ECN field as it leaves a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EcnEgress {
    /// The mark the packet leaves with; `None`: drop it, since congestion can be told to nobody.
    pub forward: Option<Ecn>,
    /// Set if this pair of marks should not occur.
    pub anomaly: Option<EcnAnomaly>,
}

/// The mark of a packet that leaves a tunnel: the table of RFC 6040, figure 4.
///
/// | inner \ outer | Not-ECT | ECT(0) | ECT(1) | CE |
/// |---|---|---|---|---|
/// | Not-ECT | Not-ECT | Not-ECT (!!!) | Not-ECT (!!!) | drop (!!!) |
/// | ECT(0) | ECT(0) | ECT(0) | ECT(1) | CE |
/// | ECT(1) | ECT(1) | ECT(1) (!) | ECT(1) | CE |
/// | CE | CE | CE | CE (!!!) | CE |
#[must_use]
pub const fn decapsulate(inner: Ecn, outer: Ecn) -> EcnEgress {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    use EcnAnomaly::{Certain, Possible};

    let (forward, anomaly) = match (inner, outer) {
        (NotEct, NotEct) => (Some(NotEct), None),
        (NotEct, Ect0 | Ect1) => (Some(NotEct), Some(Certain)),
        (NotEct, Ce) => (None, Some(Certain)),
        (Ect0, NotEct | Ect0) => (Some(Ect0), None),
        (Ect0 | Ect1, Ect1) | (Ect1, NotEct) => (Some(Ect1), None),
        (Ect1, Ect0) => (Some(Ect1), Some(Possible)),
        (Ce, Ect1) => (Some(Ce), Some(Certain)),
        (Ect0 | Ect1, Ce) | (Ce, NotEct | Ect0 | Ce) => (Some(Ce), None),
    };
    EcnEgress { forward, anomaly }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decapsulation_follows_the_4_by_4_table() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        use EcnAnomaly::{Certain, Possible};
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE, as RFC 6040 prints them.
        let table = [
            (
                NotEct,
                [
                    (Some(NotEct), None),
                    (Some(NotEct), Some(Certain)),
                    (Some(NotEct), Some(Certain)),
                    (None, Some(Certain)),
                ],
            ),
            (Ect0, [(Some(Ect0), None), (Some(Ect0), None), (Some(Ect1), None), (Some(Ce), None)]),
            (
                Ect1,
                [
                    (Some(Ect1), None),
                    (Some(Ect1), Some(Possible)),
                    (Some(Ect1), None),
                    (Some(Ce), None),
                ],
            ),
            (Ce, [(Some(Ce), None), (Some(Ce), None), (Some(Ce), Some(Certain)), (Some(Ce), None)]),
        ];
        for (inner, row) in table {
            for (outer, (forward, anomaly)) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                let expected = EcnEgress { forward, anomaly };
                assert_eq!(decapsulate(inner, outer), expected, "{inner:?} inside {outer:?}");
            }
        }
    }

    #[test]
    fn encapsulation_holds_for_every_class_model_and_mode() {
        for bits in 0..=255 {
            let inner = TrafficClass(bits);
            for fixed in 0..=Dscp::MAX {
                let pipe = DscpModel::Pipe(Dscp::new(fixed).unwrap());
                let normal = encapsulate(inner, pipe, EcnMode::Normal);
                assert_eq!((normal.dscp().value(), normal.ecn()), (fixed, inner.ecn()));
                let compatible = encapsulate(inner, pipe, EcnMode::Compatibility);
                assert_eq!((compatible.dscp().value(), compatible.ecn()), (fixed, Ecn::NotEct));
            }
            assert_eq!(encapsulate(inner, DscpModel::Uniform, EcnMode::Normal), inner);
            let compatible = encapsulate(inner, DscpModel::Uniform, EcnMode::Compatibility);
            assert_eq!(compatible.0, bits & 0xfc);
        }
    }

    #[test]
    fn a_packet_that_met_no_congestion_leaves_as_it_entered() {
        for inner in Ecn::ALL {
            for mode in [EcnMode::Normal, EcnMode::Compatibility] {
                let class = TrafficClass::new(Dscp::default(), inner);
                let outer = encapsulate(class, DscpModel::Uniform, mode).ecn();
                let egress = decapsulate(inner, outer);
                assert_eq!(egress, EcnEgress { forward: Some(inner), anomaly: None });
            }
        }
    }

    #[test]
    fn a_dscp_is_six_bits() {
        assert_eq!(Dscp::new(63).map(Dscp::value), Some(63));
        assert_eq!(Dscp::new(64), None);
    }

    #[test]
    fn a_traffic_class_splits_and_joins() {
        for bits in 0..=255 {
            let class = TrafficClass(bits);
            assert_eq!(TrafficClass::new(class.dscp(), class.ecn()), class);
            for ecn in Ecn::ALL {
                assert_eq!(class.with_ecn(ecn), TrafficClass::new(class.dscp(), ecn));
            }
        }
    }
}
