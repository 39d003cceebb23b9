//! The kernel's connection tracking, packet by packet: a namespace that forwards between two
//! devices of this process and drops what `nf_conntrack` calls invalid.
//!
//! # Safety boundary
//!
//! One ioctl, `TUNSETIFF`, takes a pointer to an interface's name and flags. Sound because what it
//! points to is alive for the call.
#![expect(unsafe_code, reason = "TUN devices have no safe interface")]

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    process::Command,
};

use super::{Judged, segments::SERVER_PORT};
use crate::{namespace::Namespace, rig::Node};

/// What is invalid goes no further.
const RULES: &str = "nft table inet t { chain c { type filter hook forward priority 0 ; \
                     ct state invalid drop ; } ; }";

pub(crate) struct Kernel {
    /// Lives as long as the devices.
    _namespace: Namespace,
    listing: File,
    /// The client's side, and the server's.
    devices: [File; 2],
}

impl Kernel {
    /// Why there is no such kernel here, if so.
    pub(crate) fn why_not() -> Option<String> {
        if let Some(why) = crate::namespace::why_not() {
            return Some(why.into());
        }
        let namespace = Namespace::create("probe");
        if !Command::new("nft").arg("--version").output().is_ok_and(|out| out.status.success()) {
            return Some("needs nft (Debian package nftables)".into());
        }
        let loaded = namespace.try_run(RULES);
        if !loaded.status.success() {
            return Some("this kernel has no nf_conntrack for nft".into());
        }
        let listed = namespace.try_run("cat /proc/net/nf_conntrack");
        (!listed.status.success()).then(|| "this kernel does not list its connections".into())
    }

    pub(crate) fn new() -> Self {
        let namespace = Namespace::create("ct");
        let devices = namespace.inside(|| [tun("left"), tun("right")]);
        for (device, host) in [("left", 10), ("right", 11)] {
            namespace.ip(&format!("link set {device} mtu 9000 up"));
            namespace.ip(&format!("route add {}/32 dev {device}", Node::A.pod(host)));
            namespace.ip(&format!("-6 route add {}/128 dev {device}", Node::A.pod6(host)));
            namespace.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
        }
        namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
        namespace.sysctl("net.ipv4.ip_forward", "1");
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1");
        namespace.run(RULES);
        // The defaults, unless somebody changed them: windows are checked, and connections are
        // picked up in the middle.
        namespace.sysctl("net.netfilter.nf_conntrack_tcp_loose", "1");
        namespace.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0");
        // Of the namespace of the thread that opens it.
        let listing =
            namespace.inside(|| File::open("/proc/thread-self/net/nf_conntrack").unwrap());
        Self { _namespace: namespace, listing, devices }
    }

    /// Whether an IP packet from one side came out at the other one.
    ///
    /// Writing hands it to the stack and returns when that is done with it.
    pub(crate) fn passes(&mut self, is_reply: bool, packet: &[u8], client_port: u16) -> bool {
        let [left, right] = &mut self.devices;
        let (from, to) = if is_reply { (right, left) } else { (left, right) };
        from.write_all(packet).unwrap();
        let mut out = [0; 9000];
        let mut passed = false;
        while let Ok(bytes) = to.read(&mut out) {
            passed |= has_port(&out[..bytes], client_port);
        }
        passed
    }

    /// The states of all connections, by the client's port.
    pub(crate) fn states(&mut self) -> BTreeMap<u16, String> {
        let mut listing = String::new();
        self.listing.rewind().unwrap();
        self.listing.read_to_string(&mut listing).unwrap();
        listing.lines().filter_map(connection).collect()
    }

    pub(crate) fn judged(passed: bool, state: Option<&String>) -> Judged {
        let state = state.map(|name| match name.as_str() {
            "SYN_SENT" => "syn_sent",
            // SYN_SENT2: both sides have sent a SYN.
            "SYN_RECV" | "SYN_SENT2" => "syn_received",
            "ESTABLISHED" => "established",
            "FIN_WAIT" => "fin_wait",
            "CLOSE_WAIT" => "close_wait",
            "LAST_ACK" => "last_ack",
            "TIME_WAIT" => "time_wait",
            "CLOSE" => "closed",
            other => panic!("an unknown state: {other}"),
        });
        Judged { passed, state }
    }
}

/// A line of the listing: family, its number, protocol, its number, seconds left, state, and then
/// `key=value` of both directions.
fn connection(line: &str) -> Option<(u16, String)> {
    let mut words = line.split_whitespace();
    let protocol = words.nth(2)?;
    let state = words.nth(2)?;
    let mut ports = words
        .filter_map(|word| word.strip_prefix("sport=").or_else(|| word.strip_prefix("dport=")))
        .filter_map(|port| port.parse().ok());
    let client = ports.find(|port| *port != SERVER_PORT)?;
    (protocol == "tcp").then(|| (client, state.to_owned()))
}

/// Whether it is a TCP segment of that client.
fn has_port(packet: &[u8], client_port: u16) -> bool {
    let (protocol, header) = match packet.first().map(|first| first >> 4) {
        Some(4) => (packet.get(9), 20),
        _ => (packet.get(6), 40),
    };
    let port =
        |at: usize| packet.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    protocol == Some(&6)
        && (port(header) == Some(client_port) || port(header + 2) == Some(client_port))
}

fn tun(name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun").unwrap();
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    let mut request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // SAFETY: the name is shorter than its field, and the kernel reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}
