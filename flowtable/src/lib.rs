//! Flows and their life: the lock-free table, connection states and expiry.
