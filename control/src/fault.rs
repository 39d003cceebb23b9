//! Places where a test may have the process die.
//!
//! Compiled in debug builds only. The variable names a place; the process aborts there, as if
//! killed, so that tests see what a restart makes of a half-done ADD or DEL.

/// The environment variable that names the place.
pub const VARIABLE: &str = "VROUTER_CONTROL_ABORT_AT";

/// The places of ADD, in their order.
pub const ADD_PLACES: [&str; 8] = [
    "add-recorded",
    "add-given",
    "add-paired",
    "add-up",
    "add-configured",
    "add-published",
    "add-acknowledged",
    "add-ready",
];

/// The place of ADD between an IPAM plugin's answer and its record: after `add-recorded`, before
/// `add-given`.
pub const ADD_DELEGATED: &str = "add-delegated";

/// The places of DEL, in their order.
pub const DEL_PLACES: [&str; 5] =
    ["del-marked", "del-closed", "del-removed", "del-given-back", "del-forgotten"];

/// Aborts if a test asks for it here.
pub(crate) fn place(name: &str) {
    if cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        tracing::error!(name, "aborting, as {VARIABLE} asks for it");
        std::process::abort();
    }
}
