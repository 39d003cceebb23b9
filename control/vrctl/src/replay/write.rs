//! The output folder of a replay.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use vrouter::{
    port::pcap::file::{CaptureWriter, WritePcapError},
    replay::ReplayOutput,
};

use super::report::{DropEntry, Summary};

/// Why the output could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("cannot {action} {}; name another folder with --out", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("port \"{port}\" cannot be a file's name; correct the name of its pod")]
    PortName { port: String },
    #[error(transparent)]
    Pcap(#[from] WritePcapError),
}

/// Writes a capture for each port that sent, `drops.json` and `summary.json`.
///
/// What an earlier replay left in the folder for another port of `ports` is removed: the folder
/// tells of one replay.
///
/// # Errors
///
/// Fails if the file system does.
pub(super) fn write(
    folder: &Path,
    ports: &[&str],
    output: &ReplayOutput,
    summary: &Summary,
) -> Result<(), WriteError> {
    create_folder(folder)?;
    for &port in ports {
        let path = capture_path(folder, port)?;
        let Some(frames) = output.sent.get(port) else {
            remove(&path)?;
            continue;
        };
        if let Some(parent) = path.parent() {
            create_folder(parent)?;
        }
        let mut writer = CaptureWriter::create(&path)?;
        for captured in frames {
            writer.write(captured.timestamp, &captured.frame)?;
        }
        writer.finish()?;
    }
    let drops: Vec<_> = output.drops.iter().map(DropEntry::from).collect();
    write_json(&folder.join("drops.json"), &drops)?;
    write_json(&folder.join("summary.json"), summary)
}

/// `DIR/uplink.pcap`, `DIR/namespace/pod.pcap`, `DIR/namespace/pod/interface.pcap`; never outside
/// of the folder.
fn capture_path(folder: &Path, port: &str) -> Result<PathBuf, WriteError> {
    if port.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(WriteError::PortName { port: port.to_owned() });
    }
    Ok(folder.join(format!("{port}.pcap")))
}

fn create_folder(path: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(path).map_err(|source| failed("create the folder", path, source))
}

fn remove(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, source))
        }
        _ => Ok(()),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        out.flush()
    });
    written.map_err(|source| failed("write", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> WriteError {
    WriteError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_lies_in_a_folder_per_namespace_and_never_outside() {
        let folder = Path::new("out");
        let path = |port| capture_path(folder, port).ok();
        assert_eq!(path("uplink"), Some(PathBuf::from("out/uplink.pcap")));
        assert_eq!(path("default/web.v2"), Some(PathBuf::from("out/default/web.v2.pcap")));
        assert_eq!(path("default/web/net1"), Some(PathBuf::from("out/default/web/net1.pcap")));
        for port in ["../x", "/etc/x", "a//b", "a/.."] {
            assert_eq!(path(port), None, "{port}");
        }
    }
}
