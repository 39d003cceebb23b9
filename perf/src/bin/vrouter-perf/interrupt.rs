//! An end that is asked for: from the terminal, or with a signal. What was started is then stopped
//! in order, where it would otherwise be left behind.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::bail;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Whether the end was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes note of it from now on. A second signal ends the process at once.
    pub(crate) fn watch() -> io::Result<Self> {
        let is_asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            flag::register_conditional_default(signal, Arc::clone(&is_asked))?;
            flag::register(signal, Arc::clone(&is_asked))?;
        }
        Ok(Self(is_asked))
    }

    /// Becomes true when it is asked for.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Fails once the end was asked for.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Relaxed) {
            bail!("interrupted; what was started is stopped again");
        }
        Ok(())
    }
}
