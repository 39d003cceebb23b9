//! Packet memory: huge pages, and how much of it may be pinned.

use super::{Finding, files::Files};
use crate::memory::RegionConfig;

const HUGE_PAGE_BYTES: u64 = 2 << 20;

pub(super) fn findings(files: &Files, region: &RegionConfig) -> Vec<Finding> {
    vec![huge_pages(files, region), locked_memory(files, region)]
}

fn region_bytes(region: &RegionConfig) -> u64 {
    u64::from(region.frame_count) * u64::from(region.frame_bytes)
}

fn huge_pages(files: &Files, region: &RegionConfig) -> Finding {
    const REASON: &str = "packet memory on 2 MiB pages costs fewer TLB misses";
    const FOLDER: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
    // The header and the links come on top: eight bytes a frame, and a page.
    let links_bytes = 4096 + 8 * u64::from(region.frame_count);
    let needed = (region_bytes(region) + links_bytes).div_ceil(HUGE_PAGE_BYTES);
    let total = files.number(format!("{FOLDER}/nr_hugepages")).unwrap_or(0);
    let free = files.number(format!("{FOLDER}/free_hugepages")).unwrap_or(0);
    let found = format!("{free} of {total} are free, packet memory takes {needed}");
    if free >= needed {
        return Finding::good("huge pages", found, REASON);
    }
    let change = format!(
        "sysctl vm.nr_hugepages={} (see hugepages.md); without them ordinary pages are used",
        total + needed - free
    );
    Finding::advice("huge pages", found, REASON, change)
}

fn locked_memory(files: &Files, region: &RegionConfig) -> Finding {
    const REASON: &str = "every device pins packet memory; with CAP_IPC_LOCK it is not counted";
    const CAP_IPC_LOCK: u32 = 14;
    let status = files.text("proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    if effective.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1) {
        let found = "CAP_IPC_LOCK is there".into();
        return Finding::good("locked memory", found, REASON);
    }
    let limits = files.text("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").to_owned();
    let bytes = if soft == "unlimited" { u64::MAX } else { soft.parse().unwrap_or(0) };
    let found = format!("the limit is {soft} bytes");
    if bytes >= region_bytes(region) {
        Finding::good("locked memory", found, REASON)
    } else {
        let change = "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited";
        Finding::problem("locked memory", found, REASON, change)
    }
}
