//! TAP devices: made once, kept by the kernel, opened by the engine.
//!
//! A device outlives the engine: while nobody has its queues open it has no carrier, and what its
//! stack sends goes nowhere. All of this runs within the device's namespace, where its owner is
//! known by its alias.

use std::io;

use rtnetlink::Handle;
use tun_rs::{DeviceBuilder, Layer};

use crate::link::{self, End, NetlinkError};

/// A device to be made.
#[derive(Clone, Debug)]
pub struct Tap<'a> {
    /// The device as an end of the way to the engine.
    pub end: End<'a>,
    /// Its MTU, in bytes.
    pub mtu_bytes: u32,
    /// The tag by which it is known as ours.
    pub alias: &'a str,
}

/// Makes a TAP device with many queues and the virtio-net header, tagged as ours and switched on.
///
/// # Errors
///
/// Fails if the name is taken or the kernel refuses; a device that was made half is removed.
pub async fn make(handle: &Handle, tap: &Tap<'_>) -> Result<(), NetlinkError> {
    create(handle, tap).await?;
    let result = link::bring_up(handle, &tap.end, tap.alias).await;
    if result.is_err() {
        link::remove(handle, tap.end.name).await?;
    }
    result
}

/// As [`make`], but neither tagged nor switched on.
///
/// # Errors
///
/// As [`make`].
pub async fn create(handle: &Handle, tap: &Tap<'_>) -> Result<(), NetlinkError> {
    let name = tap.end.name;
    // The kernel gives whoever asks a queue of a device that is there.
    if link::find(handle, name).await?.is_some() {
        let action = format!("make the TAP device {name}");
        return Err(NetlinkError { action, source: io::ErrorKind::AlreadyExists.into() });
    }
    ask_kernel(name).map_err(|source| NetlinkError {
        action: format!("make the TAP device {name} (/dev/net/tun)"),
        source,
    })?;
    let result = link::reshape(handle, name, tap.end.mac, tap.mtu_bytes).await;
    if result.is_err() {
        link::remove(handle, name).await?;
    }
    result
}

fn ask_kernel(name: &str) -> io::Result<()> {
    let builder = DeviceBuilder::new().name(name).layer(Layer::L2);
    // `offload` is what the header before each frame is called there.
    let device = builder
        .with(|linux| {
            linux.multi_queue(true).offload(true);
        })
        .build_sync()?;
    device.persist()
}
