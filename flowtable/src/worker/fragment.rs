//! Fragments: noting the connection of a first one, and finding it for the later ones.

use super::{FlowRef, WorkerCore};
use crate::{
    entry::Owner,
    facts::Ticks,
    fragments::{FragmentKey, FragmentOwner},
};

impl WorkerCore {
    pub(super) fn fragment_insert(&mut self, key: &FragmentKey, flow: FlowRef, now: Ticks) -> bool {
        self.wake();
        let noted = self.life(flow).is_some_and(|life| {
            let owner = FragmentOwner {
                connection: flow.connection(),
                generation: life.generation,
                direction: flow.direction(),
            };
            let set = self.store.fragment_set(&key.as_flow_key());
            set.is_some_and(|set| set.insert(key, owner, now))
        });
        if noted {
            self.count(|counters| &counters.fragments_inserted);
        }
        noted
    }

    pub(super) fn fragment_lookup(&mut self, key: &FragmentKey, now: Ticks) -> Option<FlowRef> {
        self.wake();
        let flow = self.find_fragment(key, now);
        if flow.is_some() {
            self.count(|counters| &counters.fragments_found);
        } else {
            self.count(|counters| &counters.fragments_unknown);
        }
        flow
    }

    fn find_fragment(&self, key: &FragmentKey, now: Ticks) -> Option<FlowRef> {
        let owner = self.store.fragment_set(&key.as_flow_key())?.find(key, now)?;
        let life = self.store.connections.at(owner.connection)?.life();
        // The whole generation: a fragment may be remembered for longer than 16 bits tell apart.
        let protocol = self.store.entries.at(life.entry)?.key().protocol();
        (life.generation == owner.generation).then(|| FlowRef {
            entry: life.entry.with(owner.direction),
            owner: Owner::new(owner.connection, life.short_generation(), protocol),
        })
    }
}
