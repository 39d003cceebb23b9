//! Desired state of a node, compiled for the engine.
#![forbid(unsafe_code)]
