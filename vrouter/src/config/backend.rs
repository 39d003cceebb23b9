//! What carries a port's packets, as the API says it.

use control_api::engine as api;

use super::{
    error::{FieldError, Problem},
    field,
};
use crate::port::{
    AfXdpBackend, AfXdpMode, Backend, SocketAccess, TapBackend, VhostUserBackend, VhostUserMode,
};

/// Queues of one port at most: as many as workers.
const QUEUES_MAX: u64 = 1024;
/// The bits of chmod(2) that a socket knows.
const FILE_MODE_MAX: u64 = 0o777;
/// What a socket's mode is if none is given: for its owner alone.
const FILE_MODE_DEFAULT: u32 = 0o600;

impl Backend {
    pub(super) fn parse(backend: Option<api::port::Backend>) -> Result<Self, FieldError> {
        match backend {
            Some(api::port::Backend::AfXdp(backend)) => af_xdp(backend).map(Self::AfXdp),
            Some(api::port::Backend::Tap(backend)) => tap(backend).map(Self::Tap),
            Some(api::port::Backend::VhostUser(backend)) => {
                vhost_user(backend).map(Self::VhostUser)
            }
            Some(api::port::Backend::Memory(_)) => Ok(Self::Memory),
            None => Err(FieldError::new("backend", Problem::Missing)),
        }
    }
}

fn af_xdp(backend: api::AfXdpBackend) -> Result<AfXdpBackend, FieldError> {
    let Ok(mode) = api::af_xdp_backend::Mode::try_from(backend.mode) else {
        return Err(FieldError::new("af_xdp.mode", Problem::UnknownEnum { number: backend.mode }));
    };
    let mode = match mode {
        api::af_xdp_backend::Mode::Auto => AfXdpMode::Auto,
        api::af_xdp_backend::Mode::ZeroCopy => AfXdpMode::ZeroCopy,
        api::af_xdp_backend::Mode::Copy => AfXdpMode::Copy,
        api::af_xdp_backend::Mode::Generic => AfXdpMode::Generic,
    };
    Ok(AfXdpBackend {
        interface: field::interface("af_xdp.interface", backend.interface)?.into(),
        netns_path: field::optional_path(backend.netns_path),
        queues: queues("af_xdp.queues", backend.queues)?,
        mode,
        partial_checksums: backend.partial_checksums,
    })
}

fn tap(backend: api::TapBackend) -> Result<TapBackend, FieldError> {
    Ok(TapBackend {
        interface: field::interface("tap.interface", backend.interface)?.into(),
        netns_path: field::optional_path(backend.netns_path),
        queues: queues("tap.queues", backend.queues)?,
    })
}

fn vhost_user(backend: api::VhostUserBackend) -> Result<VhostUserBackend, FieldError> {
    let Ok(mode) = api::vhost_user_backend::Mode::try_from(backend.mode) else {
        let problem = Problem::UnknownEnum { number: backend.mode };
        return Err(FieldError::new("vhost_user.mode", problem));
    };
    let file_mode: u32 =
        field::in_range("vhost_user.file_mode", backend.file_mode.into(), 0, FILE_MODE_MAX)?;
    let access = SocketAccess {
        uid: backend.owner_uid,
        gid: backend.owner_gid,
        file_mode: if file_mode == 0 { FILE_MODE_DEFAULT } else { file_mode },
    };
    Ok(VhostUserBackend {
        socket_path: field::socket_path("vhost_user.socket_path", backend.socket_path)?,
        mode: match mode {
            api::vhost_user_backend::Mode::Server => VhostUserMode::Server(access),
            api::vhost_user_backend::Mode::Client => VhostUserMode::Client,
        },
        queue_pairs: queues("vhost_user.queue_pairs", backend.queue_pairs)?,
    })
}

/// 0 stands for "not set".
fn queues(path: &str, count: u32) -> Result<Option<u16>, FieldError> {
    let count = field::in_range(path, u64::from(count), 0, QUEUES_MAX)?;
    Ok((count > 0).then_some(count))
}
