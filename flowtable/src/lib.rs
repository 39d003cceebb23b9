//! Flows and their life: the lock-free table, connection states and expiry.
//!
//! This crate answers one question: *what did we decide about the connection that this packet
//! belongs to, and does the packet fit it?* It knows no packets: keys, TCP fields and actions come
//! in as plain values, and time is passed in.
//!
//! ```text
//!            FlowTable (shared: one region of memory)
//!    FlowKey ──hash──► bucket ──index──► entry ──connection──► state, counters of each direction
//!                      tags × 8          key, action,          generation
//!                      indices × 8       version, scopes
//!
//!    FlowWorker (one a worker): lookup_burst → record;
//!        on a miss insert_pair;  on stale revalidate or remove
//! ```
//!
//! **Invariants.** One connection record for both directions; two keys lead to it, and they are
//! inserted in one step. What a reader acts upon is never changed under it: a new entry is written
//! and its index swapped in. Nothing is reused before every worker has passed a quiescent point
//! ([`FlowWorker::quiesce`]). The region holds indices only, never pointers. Every loop is bounded,
//! and no call waits for another worker.
//!
//! `docs/design/0002-flow-table.md` has the layout and the argument for each memory ordering.

mod bucket;
mod connection;
mod counters;
mod entry;
mod epoch;
mod facts;
mod fragments;
mod free_list;
mod hash;
mod key;
mod layout;
#[cfg(all(test, loom))]
mod loom_tests;
mod ordering;
mod region;
mod scopes;
mod store;
mod sync;
mod table;
mod tags;
mod tracking;
mod view;
mod worker;

pub use connection::FlowCounters;
pub use counters::TableCounters;
pub use entry::Direction;
pub use facts::{
    PacketFacts, SctpFacts, TICKS_PER_SECOND, TcpFacts, TcpFlags, Ticks, TransportFacts,
};
pub use fragments::{FRAGMENT_TIMEOUT, FragmentKey};
pub use hash::FlowHash;
pub use key::{Family, FlowKey};
pub use region::Memory;
pub use scopes::{ConfigView, SCOPE_SLOTS, ScopeId, ScopeVersions, Scopes, is_newer};
pub use table::{Action, Config, CreateTableError, FlowTable, WORKERS_MAX, WorkerIndexError};
pub use tracking::{ConnectionState, InvalidReason, Timeouts, Tracking, Verdict};
pub use view::ConnectionView;
pub use worker::{
    EvictionCounts, ExpiryCounts, FlowRef, FlowWorker, Held, InsertOutcome, Lookup, NewConnection,
    Recorded, Removal, Revalidation,
};
