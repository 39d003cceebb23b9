//! A trie over left-aligned 128-bit keys, six bits a level.

use std::{ops::ControlFlow, sync::Arc};

use super::node::{Node, STRIDE_BITS};

/// Prefixes of one family and a number for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    /// The prefix of length zero, which no node holds: a node holds lengths of 1 to 6 below its own
    /// depth.
    default: Option<u32>,
    root: Arc<Node>,
    len: usize,
}

impl Trie {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, bits: u128, length: u8, value: u32) -> Option<u32> {
        let old = if length == 0 {
            self.default.replace(value)
        } else {
            insert_below(&mut self.root, bits, length, value)
        };
        self.len += usize::from(old.is_none());
        old
    }

    pub(super) fn remove(&mut self, bits: u128, length: u8) -> Option<u32> {
        // A miss must not copy nodes, so it is found out first.
        self.find(bits, length)?;
        let old = if length == 0 {
            self.default.take()
        } else {
            remove_below(&mut self.root, bits, length)
        };
        self.len -= usize::from(old.is_some());
        old
    }

    pub(super) fn find(&self, bits: u128, length: u8) -> Option<u32> {
        if length == 0 {
            return self.default;
        }
        let (mut node, mut bits, mut length) = (&*self.root, bits, length);
        while length > STRIDE_BITS {
            node = node.child(chunk(bits))?;
            bits <<= STRIDE_BITS;
            length -= STRIDE_BITS;
        }
        node.value(chunk(bits), length)
    }

    /// The longest prefix of at most `length_max` bits that covers `bits`, and its value.
    pub(super) fn longest(&self, bits: u128, length_max: u8) -> Option<(u8, u32)> {
        let mut best = None;
        let (mut node, mut bits, mut depth) = (&*self.root, bits, 0);
        while depth < length_max {
            let chunk = chunk(bits);
            if let Some(longest) = node.longest(chunk, length_max - depth) {
                best = Some((depth, longest));
            }
            let Some(child) = node.child(chunk) else { break };
            node = child;
            bits <<= STRIDE_BITS;
            depth += STRIDE_BITS;
        }
        match best {
            Some((depth, longest)) => Some((depth + longest.length(), longest.value()?)),
            None => self.default.map(|value| (0, value)),
        }
    }

    pub(super) fn for_each(
        &self,
        visit: &mut impl FnMut(u128, u8, u32) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(value) = self.default {
            visit(0, 0, value)?;
        }
        for_each_below(&self.root, 0, 0, visit)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        memory_below(&self.root)
    }
}

/// The next six bits of a key.
#[expect(clippy::cast_possible_truncation, reason = "the shift leaves six bits")]
fn chunk(bits: u128) -> u8 {
    (bits >> (128 - u32::from(STRIDE_BITS))) as u8
}

/// Recursion ends after 128 / 6 levels: each takes six bits off the length.
fn insert_below(node: &mut Arc<Node>, bits: u128, length: u8, value: u32) -> Option<u32> {
    let node = Arc::make_mut(node);
    match length.checked_sub(STRIDE_BITS) {
        Some(rest) if rest > 0 => {
            insert_below(node.child_or_insert(chunk(bits)), bits << STRIDE_BITS, rest, value)
        }
        _ => node.set_value(chunk(bits), length, value),
    }
}

fn remove_below(node: &mut Arc<Node>, bits: u128, length: u8) -> Option<u32> {
    let node = Arc::make_mut(node);
    match length.checked_sub(STRIDE_BITS) {
        Some(rest) if rest > 0 => {
            let child = node.child_mut(chunk(bits))?;
            let old = remove_below(child, bits << STRIDE_BITS, rest);
            if child.is_empty() {
                node.remove_child(chunk(bits));
            }
            old
        }
        _ => node.remove_value(chunk(bits), length),
    }
}

fn for_each_below(
    node: &Node,
    bits: u128,
    depth: u8,
    visit: &mut impl FnMut(u128, u8, u32) -> ControlFlow<()>,
) -> ControlFlow<()> {
    /// The prefixes of one node form a binary tree six deep; this walks it in order of address,
    /// then length.
    fn walk(
        node: &Node,
        (bits, depth): (u128, u8),
        (chunk, length): (u8, u8),
        visit: &mut impl FnMut(u128, u8, u32) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let shift = 128 - u32::from(depth) - u32::from(length);
        if let Some(value) = node.value(chunk << (STRIDE_BITS - length), length) {
            visit(bits | u128::from(chunk) << shift, depth + length, value)?;
        }
        if length < STRIDE_BITS {
            walk(node, (bits, depth), (chunk << 1, length + 1), visit)?;
            return walk(node, (bits, depth), (chunk << 1 | 1, length + 1), visit);
        }
        match node.child(chunk) {
            Some(child) => {
                for_each_below(child, bits | u128::from(chunk) << shift, depth + length, visit)
            }
            None => ControlFlow::Continue(()),
        }
    }
    // The last level of a 128-bit key has two bits left: longer prefixes cannot exist there.
    let first = 128 - u32::from(depth) - 1;
    if first < u32::from(STRIDE_BITS) {
        return for_each_in_last(node, bits, depth, visit);
    }
    walk(node, (bits, depth), (0, 1), visit)?;
    walk(node, (bits, depth), (1, 1), visit)
}

/// The node at depth 126 holds prefixes of 127 and 128 bits only.
fn for_each_in_last(
    node: &Node,
    bits: u128,
    depth: u8,
    visit: &mut impl FnMut(u128, u8, u32) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let bits_left = 128 - depth;
    for chunk in 0..1_u8 << bits_left {
        for length in 1..=bits_left {
            let below = bits_left - length;
            let is_first = chunk & ((1 << below) - 1) == 0;
            let value = node.value(chunk << (STRIDE_BITS - bits_left), length);
            if let (true, Some(value)) = (is_first, value) {
                visit(bits | u128::from(chunk), depth + length, value)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn memory_below(node: &Node) -> usize {
    node.memory_bytes() + node.children().map(memory_below).sum::<usize>()
}
