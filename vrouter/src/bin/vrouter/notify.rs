//! Tells systemd, if it started us, that the engine is ready or stopping (`sd_notify(3)`).

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// What the engine tells.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    /// The socket answers.
    Ready,
    /// The engine is stopping in order.
    Stopping,
}

/// Sends `state` to the socket that the environment names; without one nobody wants to know.
///
/// # Errors
///
/// Fails if the socket that is named cannot be written to.
pub(crate) fn notify(state: State) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    send(&name, state)
}

fn send(name: &OsStr, state: State) -> io::Result<()> {
    // A name that begins with an at sign is in the abstract name space (unix(7)).
    let address = match name.as_bytes().split_first() {
        Some((b'@', abstract_name)) => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let message: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_of_both_states() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        let manager = UnixDatagram::bind(&path).unwrap();
        for (state, expected) in [(State::Ready, "READY=1"), (State::Stopping, "STOPPING=1")] {
            send(path.as_os_str(), state).unwrap();
            let mut message = [0; 64];
            let len = manager.recv(&mut message).unwrap();
            assert_eq!(std::str::from_utf8(&message[..len]).unwrap(), expected);
        }
    }
}
