//! The findings on machines made of files.

use std::{fs, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Finding, HostQuestion, Verdict, check_host, cpus,
    files::{Files, cpu_list, cpu_text},
    kernel, memory, network,
    xdp_features::XdpFeatures,
};
use crate::{memory::RegionConfig, port::af_xdp::Interface, topology::Topology};

/// A machine of these files.
fn machine(files: &[(&str, &str)]) -> (TempDir, Files) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }
    let files = Files::under(folder.path());
    (folder, files)
}

fn of<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap()
}

const ROOT: &str = "Name:\tvrouter\nCapEff:\t000001ffffffffff\n";
const NOBODY: &str = "Name:\tvrouter\nCapEff:\t0000000000000000\n";

#[test]
fn an_old_kernel_and_missing_rights_are_told_with_the_next_step() {
    let (_folder, files) = machine(&[
        ("proc/sys/kernel/osrelease", "6.1.0-32-amd64\n"),
        ("proc/self/status", NOBODY),
        ("proc/mounts", "none /sys/fs/bpf bpf rw 0 0\n"),
    ]);
    let findings = kernel::findings(&files);
    let old = of(&findings, "kernel");
    assert_eq!((old.verdict, old.found.as_str()), (Verdict::Advice, "Linux 6.1.0-32-amd64"));
    assert!(old.change.contains("6.6"));
    let rights = of(&findings, "capabilities");
    assert_eq!(rights.verdict, Verdict::Problem);
    assert!(rights.found.contains("CAP_NET_ADMIN") && rights.found.contains("CAP_IPC_LOCK"));
    assert_eq!(of(&findings, "BPF file system").verdict, Verdict::Good);
}

#[test]
fn huge_pages_that_are_missing_are_counted() {
    let folder = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let (_folder, files) = machine(&[
        (&format!("{folder}/nr_hugepages"), "10\n"),
        (&format!("{folder}/free_hugepages"), "4\n"),
        ("proc/self/status", NOBODY),
        ("proc/self/limits", "Max locked memory         8388608              8388608    bytes\n"),
    ]);
    let region = RegionConfig { frame_count: 16_384, frame_bytes: 2048, huge_pages: true };
    let findings = memory::findings(&files, &region);
    let pages = of(&findings, "huge pages");
    assert_eq!(pages.found, "4 of 10 are free, packet memory takes 17");
    assert!(pages.change.contains("vm.nr_hugepages=23"), "{}", pages.change);
    assert_eq!(of(&findings, "locked memory").verdict, Verdict::Problem);
    let (_folder, files) = machine(&[("proc/self/status", ROOT)]);
    assert_eq!(of(&memory::findings(&files, &region), "locked memory").verdict, Verdict::Good);
}

#[test]
fn workers_on_cpus_that_others_use_are_told() {
    let topology = Topology::synthetic("numa:2 core:2 pu:2");
    let (_folder, files) = machine(&[
        ("sys/devices/system/cpu/isolated", "2\n"),
        ("proc/cmdline", "quiet nohz_full=2\n"),
        ("proc/interrupts", "  CPU0 CPU1\n  24:  1 2 PCI eth0\n  25: 0 0 PCI sda\nNMI: 0 0\n"),
        ("proc/irq/24/effective_affinity_list", "2\n"),
        ("proc/irq/25/effective_affinity_list", "0\n"),
        ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n"),
        ("sys/class/net/eth0/device/numa_node", "0\n"),
    ]);
    let question = HostQuestion {
        uplink: Some("eth0".into()),
        worker_cpus: vec![2, 4, 9],
        region: RegionConfig::default(),
    };
    let findings = cpus::findings(&files, &topology, &question);
    let pinning = of(&findings, "worker cpus");
    assert_eq!(pinning.verdict, Verdict::Problem);
    assert_eq!(
        (pinning.found.as_str(), pinning.change.as_str()),
        ("there is no cpu 9 that may be used", "choose from 0-7")
    );
    assert!(of(&findings, "isolated cpus").found.contains("not isolated: 4,9"));
    assert!(of(&findings, "SMT siblings").found.contains("2 and 3, 4 and 5"));
    assert!(of(&findings, "frequency").found.contains("cpus 2"));
    assert_eq!(of(&findings, "interrupts").found, "on the cpus of workers: 24");
    let numa = of(&findings, "NUMA");
    assert_eq!(numa.found, "eth0 is on node 0, cpus 4 are not");
    assert_eq!(numa.change, "choose the workers' cpus from 0-3");
}

#[test]
fn workers_with_cpus_of_their_own_are_good() {
    let topology = Topology::synthetic("numa:1 core:4 pu:1");
    let (_folder, files) = machine(&[
        ("sys/devices/system/cpu/isolated", "2-3\n"),
        ("proc/cmdline", "isolcpus=2-3 nohz_full=2-3\n"),
        ("proc/interrupts", "  CPU0\n"),
    ]);
    let question = HostQuestion { worker_cpus: vec![2, 3], ..HostQuestion::default() };
    let findings = cpus::findings(&files, &topology, &question);
    assert_eq!(findings.len(), 6);
    for finding in findings {
        assert_eq!((finding.verdict, finding.change.as_str()), (Verdict::Good, ""), "{finding:?}");
    }
}

#[test]
fn a_driver_is_judged_by_what_it_can() {
    let interface = |driver: &str| {
        let mut interface = Interface::default();
        interface.name = "eth0".into();
        interface.driver = driver.into();
        interface
    };
    let can = |has_native, has_zero_copy| {
        Some(XdpFeatures { has_native, has_zero_copy, zero_copy_segments_max: 1 })
    };
    let zero_copy = network::xdp(&interface("ice"), can(true, true));
    assert_eq!(zero_copy.found, "eth0 (driver ice): zero copy");
    assert_eq!(zero_copy.verdict, Verdict::Good);
    let copy = network::xdp(&interface("iavf"), can(true, false));
    assert_eq!(copy.found, "eth0 (driver iavf): copy mode only");
    assert_eq!(copy.verdict, Verdict::Advice);
    assert_eq!(network::xdp(&interface("veth"), can(true, false)).verdict, Verdict::Good);
    let generic = network::xdp(&interface("e1000"), can(false, false));
    assert_eq!(generic.found, "eth0 (driver e1000): generic mode only");
    assert!(network::xdp(&interface(""), None).found.contains("driver unknown"));
}

#[test]
fn settings_in_the_way_are_told() {
    let (_folder, files) = machine(&[
        ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
        ("proc/sys/net/ipv4/conf/lo/rp_filter", "1\n"),
        ("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"),
        ("proc/sys/net/bridge/bridge-nf-call-ip6tables", "1\n"),
    ]);
    let question = HostQuestion { uplink: Some("lo".into()), ..HostQuestion::default() };
    let findings = network::findings(&files, &question);
    assert_eq!(of(&findings, "reverse-path filter").verdict, Verdict::Advice);
    assert_eq!(of(&findings, "bridge netfilter").found, "on for iptables and ip6tables");
    let question = HostQuestion { uplink: Some("none0".into()), ..HostQuestion::default() };
    let findings = network::findings(&files, &question);
    assert_eq!(of(&findings, "uplink").verdict, Verdict::Problem);
}

#[test]
fn this_machine_can_be_checked() {
    let question = HostQuestion {
        uplink: Some("lo".into()),
        worker_cpus: vec![0],
        region: RegionConfig::default(),
    };
    let findings = check_host(&question);
    assert!(findings.len() > 8);
    for finding in findings {
        assert_eq!(finding.change.is_empty(), finding.verdict == Verdict::Good, "{finding:?}");
    }
}

proptest! {
    #[test]
    fn a_list_of_cpus_reads_as_it_was_written(cpus: std::collections::BTreeSet<u8>) {
        let cpus = cpus.into_iter().map(usize::from).collect();
        prop_assert_eq!(cpu_list(&cpu_text(&cpus)), cpus);
    }

    #[test]
    fn noise_is_no_list_but_does_no_harm(text: String) {
        cpu_list(&text);
    }
}
