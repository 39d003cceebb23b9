//! Whole nodes: engines over AF_XDP, with pods in namespaces, against each other and against Linux
//! as a node.
//!
//! Each scenario ends with the conservation of packets and with every frame back.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod changes;
mod churn;
mod daemon_drops;
mod engine_node;
mod fragments;
mod lab;
mod linux_node;
#[path = "../support/namespace.rs"]
mod namespace;
mod offload;
mod plan;
mod queues;
mod scenarios;
mod taps;
mod traffic;
mod unresolved;
