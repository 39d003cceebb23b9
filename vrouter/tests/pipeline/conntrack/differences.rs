//! Where our connection tracking means to differ from the kernel's.

use super::{
    Judged, Pair,
    segments::{ACK, FIN, RST, SYN, Segment, URG},
};

/// A segment that was judged differently, with all that led to it.
pub(crate) struct Case<'a> {
    pub(crate) sequence: &'a [Segment],
    pub(crate) outcome: &'a [Pair],
    pub(crate) at: usize,
}

impl Case<'_> {
    fn segment(&self) -> &Segment {
        &self.sequence[self.at]
    }

    fn ours(&self) -> &Judged {
        &self.outcome[self.at].ours
    }

    fn kernel(&self) -> &Judged {
        &self.outcome[self.at].kernel
    }

    fn both_pass(&self) -> bool {
        self.ours().passed && self.kernel().passed
    }

    fn only_we_pass(&self) -> bool {
        self.ours().passed && !self.kernel().passed
    }

    fn only_kernel_passes(&self) -> bool {
        !self.ours().passed && self.kernel().passed
    }

    /// The kernel's state before the segment.
    fn kernel_state_before(&self) -> Option<&'static str> {
        self.at.checked_sub(1).and_then(|before| self.outcome[before].kernel.state)
    }

    /// Whether a SYN came in the middle of the connection.
    fn has_late_syn(&self) -> bool {
        self.passed().skip(1).any(|one| one.flags & (SYN | ACK) == SYN)
    }

    /// Whether the other side has acknowledged less than this side's SYN.
    fn was_acknowledged_before_syn(&self) -> bool {
        let is_reply = self.segment().is_reply;
        let Some(syn) = self.passed().find(|one| one.has(SYN) && one.is_reply == is_reply) else {
            return false;
        };
        let mut other = self.passed().filter(|one| one.is_reply != is_reply && one.has(ACK));
        other.any(|one| is_after(syn.end(), one.acknowledgement))
    }

    /// Our state before the segment.
    fn state_before(&self) -> Option<&'static str> {
        self.at.checked_sub(1).and_then(|before| self.outcome[before].ours.state)
    }

    /// What passed before, by both.
    fn passed(&self) -> impl Iterator<Item = &Segment> {
        let before = self.sequence.iter().zip(self.outcome).take(self.at);
        before
            .filter(|(_, pair)| pair.ours.passed && pair.kernel.passed)
            .map(|(segment, _)| segment)
    }

    /// Whether both sides had sent a SYN of their own accord.
    fn is_simultaneous_open(&self) -> bool {
        let plain = |is_reply: bool| {
            self.passed().any(|one| one.flags & (SYN | ACK) == SYN && one.is_reply == is_reply)
        };
        plain(false) && plain(true)
    }

    /// Whether the segment is the first that is bounded by the window of the other side's SYN alone,
    /// and that would be larger if it were scaled.
    fn is_within_scaled_syn(&self) -> bool {
        let from_other = || self.passed().filter(|one| one.is_reply != self.segment().is_reply);
        let is_syn_alone = from_other().all(|one| one.has(SYN) || one.has(RST));
        is_syn_alone && from_other().any(|one| one.scale.is_some_and(|scale| scale > 0))
    }

    /// The windows that the other side offered: where they begin, and their bytes.
    fn windows(&self) -> Vec<(u32, u32)> {
        let is_reply = self.segment().is_reply;
        let scale_of =
            |is_reply| self.passed().find(|one| one.has(SYN) && one.is_reply == is_reply)?.scale;
        let scale = match (scale_of(is_reply), scale_of(!is_reply)) {
            (Some(_), Some(scale)) => scale,
            _ => 0,
        };
        let own_syn = self.passed().find(|one| one.has(SYN) && one.is_reply == is_reply);
        let window = |one: &Segment| {
            let scale = if one.has(SYN) { 0 } else { scale };
            // A SYN that acknowledges nothing offers what follows the answer to it.
            let from = if one.has(ACK) { one.acknowledgement } else { own_syn?.end() };
            Some((from, u32::from(one.window) << scale))
        };
        let offers = self.passed().filter(|one| one.is_reply != is_reply && !one.has(RST));
        offers.filter_map(window).collect()
    }

    /// Whether the segment ends beyond each window that the other side offered, by less than another
    /// one.
    fn is_beyond_window(&self) -> bool {
        let (end, payload) = (self.segment().end(), u32::from(self.segment().payload_bytes));
        let edges =
            self.windows().into_iter().map(|(from, bytes)| (from.wrapping_add(bytes), bytes));
        let (mut is_beyond, mut is_close) = (true, false);
        for (edge, bytes) in edges {
            is_beyond &= is_after(end, edge);
            is_close |= !is_after(end, edge.wrapping_add(bytes.max(payload)).wrapping_add(1));
        }
        is_beyond && is_close
    }

    /// Whether the segment ends before what was sent already, by more than each window.
    fn is_before_window(&self) -> bool {
        let segment = self.segment();
        let mut own = self.passed().filter(|one| one.is_reply == segment.is_reply);
        let widest = self.windows().into_iter().map(|(_, bytes)| bytes).max().unwrap_or(0);
        own.any(|one| is_after(one.end(), segment.end().wrapping_add(widest)))
    }

    /// Whether the other side has acknowledged more than the segment's sequence number.
    fn is_acknowledged_already(&self) -> bool {
        let sequence = self.segment().sequence;
        self.windows().into_iter().any(|(acknowledged, _)| is_after(acknowledged, sequence))
    }

    /// Whether the segment acknowledges less than what its receiver sent, by more than its window.
    fn acknowledges_late(&self) -> bool {
        let segment = self.segment();
        let mut other = self.passed().filter(|one| one.is_reply != segment.is_reply);
        other.any(|one| {
            let behind = one.end().wrapping_sub(segment.acknowledgement);
            (0xffff..1 << 31).contains(&behind)
        })
    }

    /// Whether the connection did not begin with a SYN.
    fn is_picked_up(&self) -> bool {
        self.passed().next().is_some_and(|first| !first.has(SYN))
    }

    /// Whether the segment is far from something that passed before.
    fn is_far(&self) -> bool {
        let segment = self.segment();
        let is_near = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) < FAR_BYTES;
        let numbers = |is_reply: bool| {
            self.passed().map(move |passed| {
                if passed.is_reply == is_reply { passed.end() } else { passed.acknowledgement }
            })
        };
        let is_sequence_near = numbers(segment.is_reply).all(|at| is_near(at, segment.sequence));
        let is_acknowledgement_near =
            numbers(!segment.is_reply).all(|at| is_near(at, segment.acknowledgement));
        !is_sequence_near || !is_acknowledgement_near
    }
}

/// Whether sequence number `a` lies after `b`.
fn is_after(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

/// A difference that is meant.
pub(crate) struct Difference {
    /// What is different, as the design note names it.
    pub(crate) name: &'static str,
    /// Whether the two have so different an idea of the connection from here on that nothing more
    /// can be compared.
    pub(crate) ends_comparison: bool,
    /// Whether this is it.
    pub(crate) is: fn(&Case<'_>) -> bool,
}

/// Further from what was seen of a connection that was picked up than either accepts for sure.
const FAR_BYTES: u32 = 1 << 20;

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "a FIN of an unknown connection picks it up",
        ends_comparison: true,
        is: |case| {
            let is_fin = case.segment().flags & (FIN | ACK | SYN) == FIN | ACK;
            is_fin && case.ours().passed && case.kernel().state.is_none()
        },
    },
    Difference {
        name: "a reset before any answer ends the kernel's connection at once",
        ends_comparison: true,
        is: |case| case.segment().has(RST) && case.both_pass() && case.kernel().state.is_none(),
    },
    Difference {
        name: "URG beside RST, or SYN and ACK, is not invalid",
        ends_comparison: true,
        is: |case| {
            let segment = case.segment();
            segment.has(URG) && (segment.has(RST) || segment.has(SYN | ACK)) && case.only_we_pass()
        },
    },
    Difference {
        name: "a SYN in the middle passes and changes nothing",
        ends_comparison: false,
        is: |case| {
            let ours = case.ours();
            case.segment().has(SYN) && case.only_we_pass() && ours.state == case.state_before()
        },
    },
    Difference {
        name: "before the answer to a SYN, what is left of an older connection passes",
        ends_comparison: false,
        is: |case| {
            let is_waiting = case.state_before() == Some("syn_sent");
            is_waiting && case.only_we_pass() && case.ours().state == Some("syn_sent")
        },
    },
    Difference {
        name: "after two SYNs a plain acknowledgement is as good as one with SYN",
        ends_comparison: true,
        is: |case| {
            let is_plain = case.segment().flags & (SYN | RST | ACK) == ACK;
            is_plain && case.state_before() == Some("syn_received") && case.only_we_pass()
        },
    },
    Difference {
        name: "a reset that answers a SYN must acknowledge it",
        ends_comparison: true,
        is: |case| {
            let is_waiting = case.state_before() == Some("syn_sent");
            is_waiting && case.segment().has(RST) && case.only_kernel_passes()
        },
    },
    Difference {
        name: "a reset that is not where it is expected leaves every connection open",
        ends_comparison: true,
        is: |case| {
            let is_open = case.ours().state == case.state_before();
            let closes = case.kernel().state == Some("closed");
            case.segment().has(RST) && case.both_pass() && is_open && closes
        },
    },
    Difference {
        name: "while a connection ends, a reset must still be in the window",
        ends_comparison: true,
        is: |case| {
            let is_ending = case.kernel_state_before().is_some_and(|name| ENDING.contains(&name));
            is_ending && case.segment().has(RST) && case.only_kernel_passes()
        },
    },
    Difference {
        name: "a SYN in the middle may be answered later",
        ends_comparison: true,
        is: |case| {
            let is_answer =
                case.segment().has(SYN | ACK) && case.ours().state == Some("syn_received");
            is_answer && case.both_pass() && case.has_late_syn()
        },
    },
    Difference {
        name: "the window of a SYN in the middle is not known",
        ends_comparison: true,
        is: |case| case.only_we_pass() && case.has_late_syn(),
    },
    Difference {
        name: "an acknowledgement from before the handshake counts until the next",
        ends_comparison: true,
        is: |case| case.only_kernel_passes() && case.was_acknowledged_before_syn(),
    },
    Difference {
        name: "after an answer that was dropped, a SYN from the other side still opens",
        ends_comparison: true,
        is: |case| {
            let is_syn = case.segment().flags & (SYN | ACK) == SYN;
            let opens = case.ours().state == Some("syn_received");
            is_syn && opens && case.both_pass() && case.kernel().state == Some("syn_sent")
        },
    },
    Difference {
        name: "a reset is judged by its sequence number alone",
        ends_comparison: true,
        is: |case| case.segment().has(RST | ACK) && case.only_we_pass(),
    },
    Difference {
        name: "a reset behind the newest data, or that acknowledges it, closes",
        ends_comparison: true,
        is: |case| {
            let segment = case.segment();
            let closes = case.ours().state == Some("closed") && case.both_pass();
            let is_expected = case.passed().any(|one| {
                if one.is_reply == segment.is_reply {
                    one.end() == segment.sequence
                } else {
                    let answers = segment.has(ACK) && one.end() == segment.acknowledgement;
                    answers || one.acknowledgement == segment.sequence
                }
            });
            segment.has(RST) && closes && is_expected
        },
    },
    Difference {
        name: "a reset in the window is no data that could be acknowledged",
        ends_comparison: true,
        is: |case| {
            let segment = case.segment();
            let mut resets = case
                .passed()
                .filter(|one| one.is_reply != segment.is_reply && one.has(RST))
                .map(|reset| !is_after(segment.acknowledgement, reset.sequence));
            segment.has(ACK) && case.only_kernel_passes() && resets.any(|is_at_most| is_at_most)
        },
    },
    Difference {
        name: "two SYNs establish nothing before both are acknowledged",
        ends_comparison: true,
        is: |case| {
            let is_early = case.kernel().state == Some("established");
            let is_waiting = case.ours().state == Some("syn_received");
            case.is_simultaneous_open() && case.both_pass() && is_early && is_waiting
        },
    },
    Difference {
        name: "a SYN opens anew what is closed, from either side",
        ends_comparison: true,
        is: |case| {
            let is_syn = case.segment().flags & (SYN | ACK) == SYN;
            let was_over = matches!(case.state_before(), Some("closed" | "time_wait"));
            is_syn && was_over && case.ours() == &Judged { passed: true, state: Some("syn_sent") }
        },
    },
    Difference {
        name: "a SYN opens anew what the kernel takes for closed already",
        ends_comparison: true,
        is: |case| {
            let before = case.kernel_state_before();
            let was_over = matches!(before, Some("closed" | "time_wait"));
            case.segment().has(SYN) && was_over && case.state_before() != before
        },
    },
    Difference {
        name: "a reset may not lie before what was acknowledged",
        ends_comparison: true,
        is: |case| {
            let is_reset = case.segment().has(RST);
            is_reset && case.only_kernel_passes() && case.is_acknowledged_already()
        },
    },
    Difference {
        name: "a segment may not lie before the window",
        ends_comparison: true,
        is: |case| case.only_kernel_passes() && case.is_before_window(),
    },
    Difference {
        name: "an old acknowledgement in the window completes a handshake",
        ends_comparison: true,
        is: |case| {
            let is_opening = case.state_before() == Some("syn_received");
            let completes = case.ours().state == Some("established");
            let is_ignored = case.kernel().state == Some("syn_received");
            is_opening && completes && is_ignored && case.both_pass() && case.segment().has(ACK)
        },
    },
    Difference {
        name: "an answer to a SYN must acknowledge it",
        ends_comparison: true,
        is: |case| case.segment().has(SYN | ACK) && case.only_kernel_passes(),
    },
    Difference {
        name: "between two SYNs and their answers, acknowledgements are checked",
        ends_comparison: true,
        is: |case| {
            let is_opening = case.state_before() == Some("syn_received");
            is_opening && case.is_simultaneous_open() && case.only_kernel_passes()
        },
    },
    Difference {
        name: "the window of a SYN is not scaled",
        ends_comparison: true,
        is: |case| case.only_kernel_passes() && case.is_within_scaled_syn(),
    },
    Difference {
        name: "a segment may not end beyond the window",
        ends_comparison: true,
        is: |case| case.only_kernel_passes() && case.is_beyond_window(),
    },
    Difference {
        name: "an acknowledgement may not be of what was acknowledged long ago",
        ends_comparison: true,
        is: |case| case.segment().has(ACK) && case.only_kernel_passes() && case.acknowledges_late(),
    },
    Difference {
        name: "after a reset nothing new is followed",
        ends_comparison: true,
        is: |case| case.state_before() == Some("closed") && case.only_kernel_passes(),
    },
    Difference {
        name: "a FIN that the kernel lets pass and ignores counts",
        ends_comparison: true,
        is: |case| {
            let is_ignored = case.kernel().state == case.kernel_state_before();
            is_ignored && case.segment().has(FIN) && case.both_pass()
        },
    },
    Difference {
        name: "what a SYN in the middle would have changed is not followed",
        ends_comparison: true,
        is: |case| {
            let syns = |is_reply: bool| {
                case.passed().filter(|one| one.has(SYN) && one.is_reply == is_reply).count()
            };
            case.only_kernel_passes()
                && (syns(false) > 1 || syns(true) > 1 || case.is_picked_up())
                && syns(false) + syns(true) > 0
        },
    },
    Difference {
        name: "after a reset what was on the way passes",
        ends_comparison: false,
        is: |case| {
            let was_closed = case.state_before() == Some("closed");
            was_closed && case.ours().state == Some("closed") && case.only_we_pass()
        },
    },
    Difference {
        name: "the windows of a connection that was picked up are checked",
        ends_comparison: true,
        is: |case| case.is_picked_up() && case.only_kernel_passes() && case.is_far(),
    },
    Difference {
        name: "what is sent after a FIN acknowledges like any other segment",
        ends_comparison: true,
        is: |case| {
            let is_reply = case.segment().is_reply;
            let has_finished = case.passed().any(|one| one.has(FIN) && one.is_reply == is_reply);
            let is_ahead = ending(case.ours()) > ending(case.kernel());
            has_finished && case.both_pass() && is_ahead && ending(case.kernel()).is_some()
        },
    },
    Difference {
        name: "a FIN counts as acknowledged only by its own number",
        ends_comparison: false,
        is: |case| {
            let (ours, kernel) = (ending(case.ours()), ending(case.kernel()));
            case.ours().passed == case.kernel().passed && ours.is_some() && ours < kernel
        },
    },
];

/// How far a connection that ends has come.
fn ending(judged: &Judged) -> Option<usize> {
    ENDING.iter().position(|name| judged.state == Some(name))
}

/// States of a connection that ends, as they follow each other.
const ENDING: [&str; 5] = ["fin_wait", "close_wait", "closing", "last_ack", "time_wait"];
