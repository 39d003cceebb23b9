//! The slots, in shared pages: a change copies one page.

use std::sync::Arc;

use super::{NextHop, NextHopIndex};

/// Slots a page. A page of boxed tunnels takes some 3 KiB to copy; 64 keeps the list of pages short
/// as well.
const PAGE_SLOTS: usize = 64;

/// A next hop and how often its slot changed users.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NextHopSlot {
    /// Raised each time the slot gets another user.
    pub generation: u16,
    /// Where it leads.
    pub hop: NextHop,
}

type Page = [NextHopSlot; PAGE_SLOTS];

/// Next hops by their index. A clone shares all pages.
#[derive(Clone, Debug, Default)]
pub struct NextHopTable {
    pages: Arc<Vec<Arc<Page>>>,
}

impl NextHopTable {
    /// The slot; `None` beyond the last one ever used.
    #[must_use]
    pub fn slot(&self, index: NextHopIndex) -> Option<&NextHopSlot> {
        let index = index.0 as usize;
        self.pages.get(index / PAGE_SLOTS)?.get(index % PAGE_SLOTS)
    }

    /// Puts `slot` in its place, unless that is what it holds already.
    pub(crate) fn set(&mut self, index: NextHopIndex, slot: NextHopSlot) {
        if self.slot(index) == Some(&slot) {
            return;
        }
        let index = index.0 as usize;
        let pages = Arc::make_mut(&mut self.pages);
        while pages.len() <= index / PAGE_SLOTS {
            pages.push(Arc::new(std::array::from_fn(|_| NextHopSlot::default())));
        }
        let page = pages.get_mut(index / PAGE_SLOTS).map(Arc::make_mut);
        if let Some(place) = page.and_then(|page| page.get_mut(index % PAGE_SLOTS)) {
            *place = slot;
        }
    }
}
