//! Work inside another network namespace.

use std::{fs::File, io, os::fd::AsFd, panic, path::Path, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` in the network namespace at `path`, on a thread of its own, since a namespace
/// belongs to a thread. Without a path it runs here.
///
/// # Errors
///
/// Fails if the namespace cannot be entered, or with what `work` fails with.
pub(super) fn inside<T, E>(
    path: Option<&Path>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    let Some(path) = path else { return work() };
    let namespace = File::open(path)?;
    let result = thread::scope(|scope| {
        let inside = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)?;
            work()
        });
        inside.join()
    });
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
