//! One node of the trie: six bits of key, two bitmaps, two dense arrays.

use std::{mem, sync::Arc};

/// Bits of key that a node consumes.
///
/// Six makes the bitmap of children one word and that of prefixes two; prefixes of 24, 32, 64 and
/// 128 bits all end inside a node that their neighbours share.
pub(super) const STRIDE_BITS: u8 = 6;

/// Prefixes of 1 to 6 bits below the node's depth, and children for longer ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Bit `2^length − 2 + first bits` is set when that prefix is there: longer prefixes have
    /// higher bits.
    prefixes: u128,
    /// Bit `chunk` is set when there is a child for those six bits.
    branches: u64,
    /// The values of `prefixes`, in order of their bits.
    values: Box<[u32]>,
    /// The children of `branches`, in order of their bits.
    children: Box<[Arc<Node>]>,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        self.prefixes == 0 && self.branches == 0
    }

    /// The value of the prefix of the first `length` (1 to 6) bits of `chunk`.
    pub(super) fn value(&self, chunk: u8, length: u8) -> Option<u32> {
        let bit = prefix_bit(chunk, length);
        if self.prefixes & bit == 0 {
            return None;
        }
        self.values.get(rank_128(self.prefixes, bit)).copied()
    }

    /// The longest prefix of at most `length_max` bits that covers `chunk`.
    #[inline]
    pub(super) fn longest(&self, chunk: u8, length_max: u8) -> Option<Longest<'_>> {
        let covering = COVERING.get(usize::from(chunk)).map_or(0, |bits| bits & self.prefixes);
        let bit = (covering & bits_up_to(length_max)).checked_ilog2()?;
        Some(Longest { node: self, bit })
    }

    pub(super) fn set_value(&mut self, chunk: u8, length: u8, value: u32) -> Option<u32> {
        let bit = prefix_bit(chunk, length);
        let rank = rank_128(self.prefixes, bit);
        if self.prefixes & bit != 0 {
            return self.values.get_mut(rank).map(|old| mem::replace(old, value));
        }
        self.prefixes |= bit;
        insert_at(&mut self.values, rank, value);
        None
    }

    pub(super) fn remove_value(&mut self, chunk: u8, length: u8) -> Option<u32> {
        let bit = prefix_bit(chunk, length);
        if self.prefixes & bit == 0 {
            return None;
        }
        self.prefixes &= !bit;
        Some(remove_at(&mut self.values, rank_128(self.prefixes, bit)))
    }

    pub(super) fn child(&self, chunk: u8) -> Option<&Node> {
        let bit = 1_u64 << chunk;
        if self.branches & bit == 0 {
            return None;
        }
        self.children.get(rank_64(self.branches, bit)).map(|child| &**child)
    }

    pub(super) fn child_mut(&mut self, chunk: u8) -> Option<&mut Arc<Node>> {
        let bit = 1_u64 << chunk;
        if self.branches & bit == 0 {
            return None;
        }
        self.children.get_mut(rank_64(self.branches, bit))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the rank of a set bit is below the number of children"
    )]
    pub(super) fn child_or_insert(&mut self, chunk: u8) -> &mut Arc<Node> {
        let bit = 1_u64 << chunk;
        let rank = rank_64(self.branches, bit);
        if self.branches & bit == 0 {
            self.branches |= bit;
            insert_at(&mut self.children, rank, Arc::default());
        }
        &mut self.children[rank]
    }

    pub(super) fn remove_child(&mut self, chunk: u8) {
        let bit = 1_u64 << chunk;
        if self.branches & bit != 0 {
            self.branches &= !bit;
            remove_at(&mut self.children, rank_64(self.branches, bit));
        }
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Node> {
        self.children.iter().map(|child| &**child)
    }

    /// This node alone, with the two counts that lie before it.
    pub(super) fn memory_bytes(&self) -> usize {
        2 * size_of::<usize>()
            + size_of::<Self>()
            + size_of_val(&*self.values)
            + size_of_val(&*self.children)
    }
}

/// A prefix that a node has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest<'a> {
    node: &'a Node,
    bit: u32,
}

impl Longest<'_> {
    /// Its length below the node's depth.
    #[expect(clippy::cast_possible_truncation, reason = "at most six")]
    pub(super) fn length(self) -> u8 {
        (self.bit + 2).ilog2() as u8
    }

    pub(super) fn value(self) -> Option<u32> {
        self.node.values.get(rank_128(self.node.prefixes, 1 << self.bit)).copied()
    }
}

/// By chunk, the bits of all prefixes that cover it.
static COVERING: [u128; 1 << STRIDE_BITS] = {
    let mut all = [0; 1 << STRIDE_BITS];
    let mut chunk: u8 = 0;
    while chunk < 1 << STRIDE_BITS {
        let mut length = 1;
        while length <= STRIDE_BITS {
            all[chunk as usize] |= prefix_bit(chunk, length);
            length += 1;
        }
        chunk += 1;
    }
    all
};

/// The bits of all prefixes of at most `length` bits.
fn bits_up_to(length: u8) -> u128 {
    if length >= STRIDE_BITS { u128::MAX } else { (1 << ((2_u32 << length) - 2)) - 1 }
}

const fn prefix_bit(chunk: u8, length: u8) -> u128 {
    let first_bits = (chunk >> (STRIDE_BITS - length)) as u32;
    1 << ((1_u32 << length) - 2 + first_bits)
}

fn rank_128(bitmap: u128, bit: u128) -> usize {
    (bitmap & (bit - 1)).count_ones() as usize
}

fn rank_64(bitmap: u64, bit: u64) -> usize {
    (bitmap & (bit - 1)).count_ones() as usize
}

/// Grows by one, exactly: nodes are many and small, so spare capacity would double the table.
fn insert_at<T>(items: &mut Box<[T]>, position: usize, item: T) {
    let mut grown = mem::take(items).into_vec();
    grown.reserve_exact(1);
    grown.insert(position, item);
    *items = grown.into_boxed_slice();
}

fn remove_at<T>(items: &mut Box<[T]>, position: usize) -> T {
    let mut shrunk = mem::take(items).into_vec();
    let item = shrunk.remove(position);
    *items = shrunk.into_boxed_slice();
    item
}
