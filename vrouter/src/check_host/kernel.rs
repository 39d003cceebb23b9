//! The kernel, what this process may do, and where programs can be pinned.

use super::{Finding, files::Files};

/// What the engine needs, with the bits of `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_IPC_LOCK", 14)];
/// The first kernel whose AF_XDP sockets take packets in several buffers.
const MULTI_BUFFER: (u32, u32) = (6, 6);
/// The first kernel that keeps neighbours resolved by itself.
const MANAGED_NEIGHBOURS: (u32, u32) = (5, 16);

pub(super) fn findings(files: &Files) -> Vec<Finding> {
    vec![kernel(files), capabilities(files), bpf_file_system(files)]
}

fn kernel(files: &Files) -> Finding {
    const REASON: &str = "jumbo frames need AF_XDP with several buffers (6.6), next hops that stay \
                          resolved need managed neighbours (5.16)";
    let release = files.text("proc/sys/kernel/osrelease").unwrap_or_default();
    let found = format!("Linux {release}");
    match version(&release) {
        Some(version) if version >= MULTI_BUFFER => Finding::good("kernel", found, REASON),
        Some(version) if version >= MANAGED_NEIGHBOURS => Finding::advice(
            "kernel",
            found,
            REASON,
            "use Linux 6.6 or later; until then ports carry packets up to one frame",
        ),
        _ => Finding::advice("kernel", found, REASON, "use Linux 6.6 or later"),
    }
}

/// Major and minor version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn capabilities(files: &Files) -> Finding {
    const REASON: &str = "AF_XDP, XDP programs, other namespaces and pinned memory need them";
    let status = files.text("proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective >> bit & 1 == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        Finding::good("capabilities", "all that is needed".into(), REASON)
    } else {
        let found = format!("missing: {}", missing.join(", "));
        Finding::problem("capabilities", found, REASON, "run the engine as root")
    }
}

fn bpf_file_system(files: &Files) -> Finding {
    const REASON: &str = "the uplink's program outlives a restart of the engine there, so that the \
                          carrier of a NIC does not drop";
    let mounts = files.text("proc/mounts").unwrap_or_default();
    let is_mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    });
    if is_mounted {
        Finding::good("BPF file system", "mounted on /sys/fs/bpf".into(), REASON)
    } else {
        let found = "not mounted on /sys/fs/bpf".into();
        Finding::advice("BPF file system", found, REASON, "mount -t bpf bpf /sys/fs/bpf")
    }
}
