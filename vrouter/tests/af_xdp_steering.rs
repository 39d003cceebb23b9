//! The XDP programs: which frames of a shared uplink come to us, and that the rest stays with the
//! kernel.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/ports.rs"]
mod ports;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv6FragmentHeader, PacketBuilder,
    icmpv4::{DestUnreachableHeader, TimeExceededCode as TimeExceeded4},
    icmpv6::TimeExceededCode as TimeExceeded6,
};
use namespace::{Namespace, join};
use ports::{Memory, Port, bytes_of, packet, request, wait_for};
use vrouter::{
    burst::Burst,
    port::{PortRequest, Role, Steering, af_xdp::AfXdpOpener},
};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUR_V4: [u8; 4] = [192, 0, 2, 1];
const PEER_V4: [u8; 4] = [192, 0, 2, 2];
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const TUNNEL_PORTS: [u16; 2] = [4789, 8472];

fn v4(
    source: [u8; 4],
    destination: [u8; 4],
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv4(source, destination, 64)
}

fn v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv6(source.octets(), destination.octets(), 64)
}

fn udp(step: etherparse::PacketBuilderStep<etherparse::IpHeaders>, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    step.udp(50_000, port).write(&mut frame, &[0; 40]).unwrap();
    frame
}

/// An IP packet without its Ethernet header: what an ICMP error quotes.
fn quote(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

fn icmp4(kind: Icmpv4Type, quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    v4([198, 51, 100, 1], OUR_V4).icmpv4(kind).write(&mut frame, quoted).unwrap();
    frame
}

fn icmp6(kind: Icmpv6Type, quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    v6("2001:db8:9::9".parse().unwrap(), OUR_V6).icmpv6(kind).write(&mut frame, quoted).unwrap();
    frame
}

/// An IPv4 fragment of a UDP packet to `udp_port`, or of one whose first fragment says so.
fn fragment4(udp_port: u16, identification: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut frame = udp(v4(PEER_V4, OUR_V4), udp_port);
    let field = offset | if more { 0x2000 } else { 0 };
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame
}

/// As [`fragment4`], over IPv6.
fn fragment6(udp_port: u16, identification: u32, offset: u16, more: bool) -> Vec<u8> {
    let whole = udp(v6(PEER_V6, OUR_V6), udp_port);
    let offset = IpFragOffset::try_new(offset).unwrap();
    let header = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, identification);
    with_extension(&whole, IpNumber::IPV6_FRAGMENTATION_HEADER, &header.to_bytes())
}

/// As [`fragment6`], of a datagram whose first protocol is another one.
fn fragment6_of(protocol: IpNumber, identification: u32, offset: u16, more: bool) -> Vec<u8> {
    let mut frame = fragment6(4789, identification, offset, more);
    frame[14 + 40] = protocol.0;
    frame
}

/// Puts an extension header behind the IPv6 header.
fn with_extension(frame: &[u8], kind: IpNumber, extension: &[u8]) -> Vec<u8> {
    let (headers, payload) = frame.split_at(14 + 40);
    let mut frame = headers.to_vec();
    frame[20] = kind.0;
    let payload_bytes = u16::try_from(payload.len() + extension.len()).unwrap();
    frame[18..20].copy_from_slice(&payload_bytes.to_be_bytes());
    frame.extend_from_slice(extension);
    frame.extend_from_slice(payload);
    frame
}

/// Fragments, in this order, and whether they are ours.
fn fragments() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("an IPv4 fragment without its first", fragment4(4789, 6, 100, true), false),
        ("an IPv4 fragment, the first", fragment4(4789, 7, 0, true), true),
        ("an IPv4 fragment, another", fragment4(53, 7, 100, true), true),
        ("an IPv4 fragment, the last", fragment4(53, 7, 200, false), true),
        ("an IPv4 fragment of another datagram", fragment4(4789, 8, 100, false), false),
        ("a first fragment to another port, IPv4", fragment4(53, 7, 0, true), false),
        ("an IPv4 fragment that follows it", fragment4(4789, 7, 100, false), false),
        ("an IPv6 fragment without its first", fragment6(4789, 6, 100, true), false),
        ("an IPv6 fragment, the first", fragment6(4789, 7, 0, true), true),
        ("an IPv6 fragment, another", fragment6(53, 7, 100, true), true),
        ("an IPv6 fragment, the last", fragment6(53, 7, 200, false), true),
        ("an IPv6 fragment of another datagram", fragment6(4789, 8, 100, false), false),
        ("a first fragment to another port, IPv6", fragment6(53, 7, 0, true), false),
        ("an IPv6 fragment that follows it", fragment6(4789, 7, 100, false), false),
        ("an IPv6 fragment, another first", fragment6(4789, 9, 0, true), true),
        ("a first fragment of ICMPv6", fragment6_of(IpNumber::IPV6_ICMP, 9, 0, true), false),
        (
            "an ICMPv6 fragment that follows it",
            fragment6_of(IpNumber::IPV6_ICMP, 9, 100, false),
            false,
        ),
        ("an IPv6 fragment, a third first", fragment6(4789, 10, 0, true), true),
        ("a first fragment of TCP", fragment6_of(IpNumber::TCP, 10, 0, true), false),
        ("a TCP fragment that follows it", fragment6_of(IpNumber::TCP, 10, 100, false), false),
        ("an IPv6 fragment that is the whole packet", fragment6(4789, 11, 0, false), true),
    ]
}

/// Frames of all other kinds.
fn cases() -> Vec<(&'static str, Vec<u8>, bool)> {
    let sent4 = quote(&udp(v4(OUR_V4, PEER_V4), 4789));
    let sent6 = quote(&udp(v6(OUR_V6, PEER_V6), 8472));
    let too_big4 = || {
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: 1400,
        })
    };
    let expired4 = || Icmpv4Type::TimeExceeded(TimeExceeded4::TtlExceededInTransit);
    let too_big6 = || Icmpv6Type::PacketTooBig { mtu: 1400 };
    let tunnel4 = udp(v4(PEER_V4, OUR_V4), 4789);
    let tunnel6 = udp(v6(PEER_V6, OUR_V6), 4789);
    let mut tagged = tunnel4.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let options: [u8; 8] = [17, 0, 1, 4, 0, 0, 0, 0];
    vec![
        ("IPv4 to a tunnel port", tunnel4.clone(), true),
        ("IPv4 to the other tunnel port", udp(v4(PEER_V4, OUR_V4), 8472), true),
        ("IPv6 to a tunnel port", tunnel6.clone(), true),
        ("IPv6 to the other tunnel port", udp(v6(PEER_V6, OUR_V6), 8472), true),
        ("IPv6 behind options", with_extension(&tunnel6, IpNumber(60), &options), true),
        ("IPv4 to another port", udp(v4(PEER_V4, OUR_V4), 53), false),
        ("IPv6 to another port", udp(v6(PEER_V6, OUR_V6), 53), false),
        ("IPv4 to another address", udp(v4(PEER_V4, [192, 0, 2, 77]), 4789), false),
        ("IPv6 to another address", udp(v6(PEER_V6, PEER_V6), 4789), false),
        ("802.1Q", tagged, false),
        ("too big about our tunnel, IPv4", icmp4(too_big4(), &sent4), true),
        ("time exceeded about our tunnel, IPv4", icmp4(expired4(), &sent4), true),
        ("too big about our tunnel, IPv6", icmp6(too_big6(), &sent6), true),
        (
            "time exceeded about our tunnel, IPv6",
            icmp6(Icmpv6Type::TimeExceeded(TimeExceeded6::HopLimitExceeded), &sent6),
            true,
        ),
        (
            "too big about something else, IPv4",
            icmp4(too_big4(), &quote(&udp(v4(OUR_V4, PEER_V4), 53))),
            false,
        ),
        ("too big about the peer's tunnel", icmp4(too_big4(), &quote(&tunnel4)), false),
        (
            "too big about something else, IPv6",
            icmp6(too_big6(), &quote(&udp(v6(OUR_V6, PEER_V6), 53))),
            false,
        ),
        ("too big that quotes too little", icmp4(too_big4(), &sent4[..22]), false),
        (
            "an echo that looks like a quote",
            icmp4(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }), &sent4),
            false,
        ),
        ("a frame of 14 bytes", tunnel4[..14].to_vec(), false),
        ("an IPv4 header cut short", tunnel4[..30].to_vec(), false),
        ("a UDP header cut short", tunnel4[..40].to_vec(), false),
        ("an IPv6 header cut short", tunnel6[..50].to_vec(), false),
    ]
}

struct Uplink {
    ours: Namespace,
    _theirs: Namespace,
    theirs_port: Port,
    memory: Memory,
}

/// A veth pair: our end is to be an uplink, the other end a port that sends whatever it is given.
fn uplink(opener: impl Fn(&Memory) -> AfXdpOpener) -> (Uplink, PortRequest) {
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "up0"), (&theirs, "peer0"), 1, 1500);
    ours.ip("link set up0 address 02:00:00:00:00:01");
    ours.ip("addr add 192.0.2.1/24 dev up0");
    ours.ip("addr add 2001:db8::1/64 dev up0 nodad");
    let mut memory = Memory::new(8192);
    memory.opener = opener(&memory);
    let theirs_port = Port::open(&mut memory, &request(&theirs, "peer0", None));
    let mut asked = request(&ours, "up0", None);
    asked.role = Role::Uplink;
    (Uplink { ours, _theirs: theirs, theirs_port, memory }, asked)
}

fn no_pins(memory: &Memory) -> AfXdpOpener {
    AfXdpOpener::new(memory.depot.region().clone(), None)
}

fn tunnels() -> Steering {
    let addresses = vec![IpAddr::from(Ipv4Addr::from(OUR_V4)), IpAddr::from(OUR_V6)];
    Steering::Tunnels { addresses, udp_ports: TUNNEL_PORTS.to_vec() }
}

/// A socket on a port that a closed socket may still hold: a process that another test has just
/// forked keeps a copy of its descriptor until it executes its program.
fn bind_when_free(address: &str, port: u16) -> UdpSocket {
    let mut socket = None;
    wait_for("the port to be free", || match UdpSocket::bind((address, port)) {
        Ok(bound) => {
            socket = Some(bound);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            false
        }
    });
    socket.unwrap()
}

impl Uplink {
    /// Sends a frame, then one that is surely ours; returns what came in before that.
    fn comes_in(&mut self, port: &mut Port, frame: &[u8]) -> Vec<Vec<u8>> {
        let marker = udp(v4([192, 0, 2, 99], OUR_V4), 4789);
        let mut burst = Burst::new();
        burst.push(packet(&mut self.memory.pool, frame));
        burst.push(packet(&mut self.memory.pool, &marker));
        self.theirs_port.send(0, &mut self.memory.pool, &mut burst);
        let mut seen = Vec::new();
        wait_for("the marker", || {
            self.theirs_port.poll_aside(&mut self.memory.pool);
            let mut burst = Burst::new();
            port.poll(&mut self.memory.pool, &mut burst);
            for packet in burst {
                seen.push(bytes_of(&packet, self.memory.pool.region()));
                self.memory.pool.free_packet(packet);
            }
            seen.last() == Some(&marker)
        });
        seen.pop();
        seen
    }

    /// Whether a UDP packet from the peer reaches a socket of our kernel.
    fn kernel_gets(&mut self, frame: &[u8], port: u16) -> bool {
        let address = if frame[12..14] == [0x86, 0xdd] { "::" } else { "0.0.0.0" };
        let socket = self.ours.inside(|| bind_when_free(address, port));
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut burst = Burst::new();
        burst.push(packet(&mut self.memory.pool, frame));
        self.theirs_port.send(0, &mut self.memory.pool, &mut burst);
        socket.recv(&mut [0; 64]).is_ok()
    }

    fn finish(mut self, port: Port) {
        port.close(&mut self.memory.pool);
        self.theirs_port.close(&mut self.memory.pool);
        self.memory.assert_all_frames_are_back();
    }
}

#[test]
fn only_this_nodes_tunnels_and_the_errors_about_them_come_to_us() {
    skip_unless_namespaces!();
    let (mut uplink, asked) = uplink(no_pins);
    let mut port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    port.device.steer(&tunnels()).unwrap();
    for (what, frame, is_ours) in cases().into_iter().chain(fragments()) {
        let seen = uplink.comes_in(&mut port, &frame);
        let expected = if is_ours { vec![frame] } else { Vec::new() };
        assert_eq!(seen, expected, "{what}");
    }
    assert!(uplink.kernel_gets(&udp(v4(PEER_V4, OUR_V4), 53), 53));
    assert!(uplink.kernel_gets(&udp(v6(PEER_V6, OUR_V6), 53), 53));
    uplink.finish(port);
}

#[test]
fn without_steering_the_kernel_has_everything() {
    skip_unless_namespaces!();
    let (mut uplink, asked) = uplink(no_pins);
    let mut port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    let tunnel = udp(v4(PEER_V4, OUR_V4), 4789);
    assert!(uplink.kernel_gets(&tunnel, 4789), "before it is steered");
    port.device.steer(&tunnels()).unwrap();
    assert_eq!(uplink.comes_in(&mut port, &tunnel), [tunnel.as_slice()]);
    port.device.steer(&Steering::Nothing).unwrap();
    assert!(uplink.kernel_gets(&tunnel, 4789), "after it was");
    uplink.finish(port);
}

#[test]
fn other_addresses_and_ports_can_be_steered_at_any_time() {
    skip_unless_namespaces!();
    let (mut uplink, asked) = uplink(no_pins);
    let mut port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    port.device.steer(&tunnels()).unwrap();
    let other = udp(v4(PEER_V4, OUR_V4), 6081);
    assert!(uplink.comes_in(&mut port, &other).is_empty());
    let addresses = vec![IpAddr::from(Ipv4Addr::from(OUR_V4))];
    let steering = Steering::Tunnels { addresses, udp_ports: vec![4789, 6081] };
    port.device.steer(&steering).unwrap();
    assert_eq!(uplink.comes_in(&mut port, &other), [other]);
    assert!(uplink.comes_in(&mut port, &udp(v6(PEER_V6, OUR_V6), 4789)).is_empty());
    uplink.finish(port);
}

/// A BPF file system in a folder of its own, until it is dropped.
struct BpfFolder(tempfile::TempDir);

impl BpfFolder {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let is_mounted = mount.args(["-t", "bpf", "bpf"]).arg(folder.path()).status();
        is_mounted.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_pinned_program_stays_attached_for_the_next_engine_and_passes_everything_meanwhile() {
    skip_unless_namespaces!();
    let Some(folder) = BpfFolder::mount() else {
        eprintln!("SKIPPED: no BPF file system can be mounted");
        return;
    };
    let pins = folder.path().join("vrouter");
    let (mut uplink, asked) =
        uplink(|memory| AfXdpOpener::new(memory.depot.region().clone(), Some(pins.clone())));
    let program = |uplink: &Uplink| {
        let listing = uplink.ours.run("ip -d link show up0");
        let at = listing.find("prog/xdp id ").expect("a program is attached");
        listing[at + 12..].split_whitespace().next().unwrap().to_owned()
    };
    let tunnel = udp(v4(PEER_V4, OUR_V4), 4789);

    let mut port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    port.device.steer(&tunnels()).unwrap();
    assert_eq!(uplink.comes_in(&mut port, &tunnel), [tunnel.as_slice()]);
    let first = program(&uplink);
    port.close(&mut uplink.memory.pool);
    assert_eq!(program(&uplink), first);
    assert!(uplink.kernel_gets(&tunnel, 4789));

    let mut port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    assert_eq!(program(&uplink), first);
    port.device.steer(&tunnels()).unwrap();
    assert_eq!(uplink.comes_in(&mut port, &tunnel), [tunnel]);
    assert_eq!(fs::read_dir(&pins).unwrap().count(), 1);
    uplink.finish(port);
}

#[test]
fn without_a_bpf_file_system_the_port_says_that_its_program_ends_with_the_engine() {
    skip_unless_namespaces!();
    let folder = tempfile::tempdir().unwrap();
    let pins = folder.path().join("vrouter");
    let (mut uplink, asked) =
        uplink(|memory| AfXdpOpener::new(memory.depot.region().clone(), Some(pins.clone())));
    let port = Port::try_open(&mut uplink.memory, &asked).unwrap();
    assert!(port.device.detail().contains("mount -t bpf"), "{}", port.device.detail());
    uplink.finish(port);
}

#[test]
fn the_committed_objects_are_what_the_compiler_makes_of_their_sources() {
    let version = Command::new("clang").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if !version.is_ok_and(|version| version.contains("clang version 14.")) {
        eprintln!("SKIPPED: needs clang 14, as Debian 12 has it");
        return;
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let output = tempfile::tempdir().unwrap();
    let built = Command::new(sources.join("build")).arg(output.path()).status().unwrap();
    assert!(built.success());
    for name in ["redirect.bpf.o", "steer.bpf.o"] {
        let committed = fs::read(sources.join(name)).unwrap();
        let rebuilt = fs::read(output.path().join(name)).unwrap();
        assert!(committed == rebuilt, "{name} is stale: run vrouter/bpf/build and commit it");
    }
}
