//! How large policy may be: what the engine takes, and what control therefore keeps to.
//!
//! A batch is in force as a whole or not at all, so one set that the engine refuses would hold up
//! everything else. Control leaves out the rules that would go beyond these limits, and names them.

/// Bytes of one message that the engine takes at most: a piece of a batch. Clients cut batches into
/// pieces of some thousand objects.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of the rules of one policy set at most: a set travels in one message, with the names of
/// its policies (some 3 MiB at most) and smaller objects before it (1 MiB).
pub const SET_BYTES_MAX: usize = 8 << 20;

/// Rules of one policy set at most: a thousand policies for one pod, with many peers each.
pub const SET_RULES_MAX: usize = 1 << 16;

/// Policies that isolate one pod in one direction at most: eight times more than anybody has.
pub const SET_POLICIES_MAX: usize = 1 << 13;

/// Blocks and their exceptions in one policy set at most. The engine holds each against each once,
/// when it compiles the set: within a second or two.
pub const SET_PREFIXES_MAX: usize = 1 << 14;

/// Items of each list of a rule at most; what the API of Kubernetes leaves open, and more than
/// anybody writes by hand.
pub const RULE_ITEMS_MAX: usize = 4096;

/// Bytes of a name at most: a namespace (63), a pod (253), an interface (15) and two slashes,
/// rounded up.
pub const NAME_BYTES_MAX: usize = 384;
