//! Kubernetes `NetworkPolicy` compiled for the engine: objects in, sets and assignments out.
//!
//! ```text
//!  NetworkPolicy ─ Policy::parse ─► sections of terms ─┐
//!  Namespaces, Pods ─► population ─► expressions ──────┤
//!                                      │               ▼
//!                                 AddressSets ◄─── PolicySets ◄─── pods: (ingress, egress)
//! ```
//!
//! A pod that at least one policy selects in a direction is isolated in it, and has a policy set:
//! the union of what those policies allow. A connection needs the consent of the egress side at its
//! source and of the ingress side at its destination. Each rule's peers are sets of addresses, one
//! for each distinct question ("pods with these labels in such namespaces"); rules and policies
//! that ask alike share them, so that a pod's change touches few of them.
//!
//! What the API leaves open is decided here:
//! * A rule that lists ports allows TCP, UDP and SCTP only, since a port always has one of these
//!   protocols. ICMP and all else pass by rules without ports. (Errors about a connection that is
//!   allowed belong to it, and pass: that is the engine's part.)
//! * A port's name in an egress rule means the ports of destination pods that bear it, also under
//!   an `ipBlock`; nobody outside the cluster has named ports.
//! * Pods on their node's own network are not of the pod network: no policy isolates them, and only
//!   an `ipBlock` can name them.
//! * A namespace always has its name as the label `kubernetes.io/metadata.name`, also if its
//!   manifest does not say so, says otherwise or is missing.
//! * A pod that has ended keeps its labels, but has no addresses.
//!
//! Invariants: what is reported is a function of the objects alone, in whatever order they came;
//! and ids are functions of what they stand for, so that control may be restarted beside an engine
//! that goes on.
//!
//! This is not the judge: classification of packets is the engine's.

mod block;
mod changes;
mod compiler;
mod expression;
mod form;
mod identity;
mod membership;
mod parse;
mod policy_set;
mod population;
mod problem;
mod room;
mod section;
mod selector;
mod update;

pub use changes::changes;
pub use compiler::{Change, Compiler, Scope};
pub use form::PolicyObject;
pub use parse::{Policy, PolicyName};
pub use problem::{Consequence, Fault, PolicyProblem};
pub use update::{Assignment, Update};
