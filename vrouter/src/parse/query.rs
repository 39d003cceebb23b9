//! ICMP queries in flow keys: what stands where other protocols have ports.
//!
//! A request has its identifier as source port and, as destination port, the identifier plus the
//! request's type; its answer has them the other way round, and so finds the reply direction of the
//! request's connection. A request never does: the destination port less the source port is the
//! type of a request (8, 13 or 128) one way and 65,536 less it the other, and no type is the other
//! way of one. So what the far side asks under the same identifier is a connection of its own, and
//! so is a question of another type.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// The ports of a message with identifier `id` that asks, or answers, what messages of type `asked`
/// ask.
pub(crate) fn ports(id: u16, asked: u8, is_request: bool) -> (u16, u16) {
    let other = id.wrapping_add(u16::from(asked));
    if is_request { (id, other) } else { (other, id) }
}

/// The identifier that [`ports`] were made of.
pub(crate) fn identifier((source, destination): (u16, u16)) -> u16 {
    let is_request = u8::try_from(destination.wrapping_sub(source)).is_ok();
    if is_request { source } else { destination }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn only_a_request_and_its_answer_are_each_others_ports_reversed() {
        let mut found = HashMap::new();
        for asked in [8, 13, 128] {
            for id in 0..=u16::MAX {
                let request = ports(id, asked, true);
                let (from, to) = request;
                assert_eq!(ports(id, asked, false), (to, from));
                assert_eq!((identifier((from, to)), identifier((to, from))), (id, id));
                assert_eq!(found.insert(request, (id, asked)), None);
            }
        }
        for (from, to) in found.keys() {
            assert!(!found.contains_key(&(*to, *from)), "{from} and {to}");
        }
    }
}
