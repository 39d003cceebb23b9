//! The uplink, and kernel settings that come in the way of packets.

use super::{
    Finding, HostQuestion,
    files::Files,
    xdp_features::{XdpFeatures, xdp_features},
};
use crate::port::af_xdp::Interface;

pub(super) fn findings(files: &Files, question: &HostQuestion) -> Vec<Finding> {
    let mut findings = Vec::new();
    match question.uplink.as_deref() {
        None => findings.push(Finding::advice(
            "uplink",
            "none named".into(),
            "its driver decides between zero copy and copy",
            "name the uplink's interface to have it checked",
        )),
        Some(name) => match Interface::find(name) {
            Err(error) => findings.push(Finding::problem(
                "uplink",
                format!("{name}: {error}"),
                "other nodes are reached through it",
                "name an interface that `ip link` shows",
            )),
            Ok(interface) => {
                findings.push(xdp(&interface, xdp_features(interface.index).ok().flatten()));
                findings.push(queues(&interface, question));
                findings.extend(reverse_path(files, name));
            }
        },
    }
    findings.extend(bridge_netfilter(files));
    findings
}

pub(super) fn xdp(interface: &Interface, features: Option<XdpFeatures>) -> Finding {
    const REASON: &str = "in zero copy the NIC reads and writes packet memory itself; copy mode \
                          costs a copy, generic mode also a socket buffer a packet";
    let name = &interface.name;
    let driver = if interface.driver.is_empty() { "unknown" } else { &interface.driver };
    let Some(features) = features else {
        let found = format!("the kernel does not tell what {name} (driver {driver}) can");
        return Finding::advice("XDP", found, REASON, "use Linux 6.3 or later to know beforehand");
    };
    let other = "use a NIC or virtual function whose driver has it: gve, i40e, ice, idpf, igb, \
                 igc, ixgbe, mlx5, nfp, stmmac, virtio_net";
    if features.has_zero_copy && features.has_native {
        let several = if features.zero_copy_segments_max > 1 { ", several buffers" } else { "" };
        let found = format!("{name} (driver {driver}): zero copy{several}");
        return Finding::good("XDP", found, REASON);
    }
    let (mode, is_native) = if features.has_native { ("copy", true) } else { ("generic", false) };
    let found = format!("{name} (driver {driver}): {mode} mode only");
    // A veth is for function, not for speed: nothing is to be changed about it.
    if driver == "veth" && is_native {
        return Finding::good("XDP", found, REASON);
    }
    Finding::advice("XDP", found, REASON, other)
}

fn queues(interface: &Interface, question: &HostQuestion) -> Finding {
    const REASON: &str = "a queue has one worker: fewer queues than workers leave workers idle, and \
                          with more of them workers serve several, each with fewer frames ready";
    let workers = question.worker_cpus.len().max(1);
    let found = format!("{} rx queues, {workers} workers", interface.rx_queues);
    if usize::try_from(interface.rx_queues).unwrap_or(usize::MAX) == workers {
        return Finding::good("queues", found, REASON);
    }
    let change = format!("ethtool -L {} combined {workers}, if the driver can", interface.name);
    Finding::advice("queues", found, REASON, change)
}

fn reverse_path(files: &Files, uplink: &str) -> Option<Finding> {
    const REASON: &str = "strict filtering drops what a node's stack gets through the host port from \
                          addresses that it would answer through the uplink";
    let setting = |name: &str| files.number(format!("proc/sys/net/ipv4/conf/{name}/rp_filter"));
    // The kernel takes the greater of the two (ip-sysctl).
    let value = setting("all")?.max(setting(uplink).unwrap_or(0));
    let found = format!("rp_filter is {value}");
    if value != 1 {
        return Some(Finding::good("reverse-path filter", found, REASON));
    }
    let change = "sysctl net.ipv4.conf.all.rp_filter=0, or 2 for the loose check";
    Some(Finding::advice("reverse-path filter", found, REASON, change))
}

fn bridge_netfilter(files: &Files) -> Option<Finding> {
    const REASON: &str = "bridged packets of other plugins' pods go through iptables, which halves \
                          the bridge's speed; comparisons must say how it was set";
    let on: Vec<&str> = ["iptables", "ip6tables"]
        .into_iter()
        .filter(|it| files.number(format!("proc/sys/net/bridge/bridge-nf-call-{it}")) == Some(1))
        .collect();
    // Without the module there is no such setting.
    files.number("proc/sys/net/bridge/bridge-nf-call-iptables")?;
    if on.is_empty() {
        return Some(Finding::good("bridge netfilter", "off".into(), REASON));
    }
    let found = format!("on for {}", on.join(" and "));
    let change = "leave it if kube-proxy runs on this node; else sysctl \
                  net.bridge.bridge-nf-call-iptables=0";
    Some(Finding::advice("bridge netfilter", found, REASON, change))
}
