//! What `vrouter-perf pktgen` is told.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgGroup, Args};
use encap::{MacAddress, vxlan::Vni};
use perf::pktgen::{
    frames::{Addressing, FrameMix, FrameMixError, FrameSetError, RFC_2544_SIZES},
    port::PortSpec,
    rate::Rate,
    tunnel::Tunnel,
};

const AFTER_HELP: &str = "\
Ports:
  af_xdp:INTERFACE[,queue=N][,mode=copy|zero-copy|auto][,netns=NAME]
        An interface: all of its queues, or one. Where frames are received, nobody else gets what
        comes in. A port that only sends leaves the interface's own stack alone.
  tap:INTERFACE[,netns=NAME]
        The other end of a TAP interface that is there and up: the kernel receives what is sent.
  vhost-user:SOCKET[,ring=split|packed][,entries=N]
        A vhost-user backend that listens on a socket, with one queue pair; a port that both sends
        and receives is named once, with --tx and --rx.
  vhost-user-client=SOCKET[,ring=split|packed][,entries=N]
        The same. With --port, once or twice, frames are written once and sent round and round as
        fast as the backend takes them, from the first port to the last; they are counted and not
        looked at. One thread does both, at a fraction of a dataplane's cost.
  memory[,pps=N][,burst=N][,drop-every=N][,duplicate-every=N][,swap-every=N][,corrupt-every=N]
        A link in memory, from the sender straight to the sink: what both cost by themselves; with
        options a device whose faults are known.
  With both --tx and --rx one process sends and receives, and loss is exact. With one of them it
  only sends or only receives; then sender and sink have to be told the same --stream and --flows,
  and latencies are right on the same machine only.

Frame sizes count the 4-byte FCS, as in RFC 2544: --frame 64 gives the port 60 bytes.
  N         one size                              N+N+...  sizes that take turns
  imix      7 x 64, 4 x 570, 1 x 1518 bytes       rfc2544  seven rows, 64 to 1518 bytes

Addresses by default: 198.18.0.1 to 198.19.0.1, with --ipv6 2001:2::1 to 2001:2:0:1::1 (RFC 2544
appendix C, RFC 5180 section 8).

Examples:
  vrouter-perf pktgen --tx memory --seconds 1
        what the generator itself comes to
  vrouter-perf pktgen --tx af_xdp:veth0 --rx af_xdp:veth2 --rate 100kpps --frame imix
        100,000 packets a second for 10 s from one interface to another
  vrouter-perf pktgen --tx af_xdp:eth1 --rx af_xdp:eth2 --search --frame rfc2544 --seconds 60
        the throughput of what lies between, without loss and with 0.5 %, as RFC 2544 has it: it
        asks for trials of 60 s (section 24)
  vrouter-perf pktgen --tx af_xdp:veth0,netns=left --packets 1000000 --flows 1000
        only send: another program counts
  vrouter-perf pktgen --port vhost-user-client=/run/a.sock --port vhost-user-client=/run/b.sock \
        --flows 10000 --seconds 2 --tx-cpu 0
        what a switch between two vhost-user ports comes to
  vrouter-perf pktgen --rx af_xdp:veth2 --seconds 30 --json counts.json
        only receive

Exit status: 0 done, 1 an error, 2 wrong options, 3 more loss than --loss-limit.";

/// Sends packets at a rate, receives them again, and counts what became of them.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, group(ArgGroup::new("ports").required(true).multiple(true)))]
pub(crate) struct PktgenOptions {
    /// Where to send: a port, see below.
    #[arg(long, value_name = "PORT", group = "ports")]
    pub(crate) tx: Option<PortSpec>,
    /// Where to receive: a port, which may be the same.
    #[arg(long, value_name = "PORT", group = "ports")]
    pub(crate) rx: Option<PortSpec>,
    /// Sends prepared frames, untouched, from a vhost-user port to another, or back to the same
    /// one; see below.
    #[arg(long = "port", value_name = "PORT", group = "ports",
          conflicts_with_all = ["tx", "rx", "rate", "packets", "search", "rx_cpu", "busy"])]
    pub(crate) prepared: Vec<PortSpec>,
    /// How fast: packets a second, or with a unit: 50kpps, 1.5Mpps, 2Gbit/s; max is as fast as the
    /// port takes them.
    #[arg(long, default_value = "max")]
    pub(crate) rate: Rate,
    /// How long to send, or to receive.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How many packets, instead of how long.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) packets: Option<u64>,
    /// Looks for the highest rate at which no more than some part is lost (RFC 2544 section 26.1),
    /// up to --rate, in trials of --seconds each.
    #[arg(long, conflicts_with = "packets", requires = "tx")]
    pub(crate) search: bool,
    /// With --search: a part that may be lost; may be repeated [default: 0 and 0.005].
    // What it requires may not stand beside --packets, and then clap would not ask for it.
    #[arg(long = "loss", value_name = "RATIO", value_parser = ratio, requires = "search",
          conflicts_with = "packets")]
    pub(crate) losses: Vec<f64>,
    /// With --search: how near good and bad rates have to be, as a part of the rate.
    #[arg(long, value_name = "RATIO", value_parser = ratio, default_value_t = 0.005,
          requires = "search", conflicts_with = "packets")]
    pub(crate) precision: f64,
    /// Frame size in bytes with FCS, a mix, imix or rfc2544; may be repeated.
    #[arg(long = "frame", value_name = "SIZE", default_value = "64", value_parser = Frames::parse)]
    pub(crate) frames: Vec<Frames>,
    /// Flows that take turns; they differ in their UDP ports.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) flows: u32,
    /// IPv6 addresses by default, instead of IPv4.
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Source address; the defaults are set aside for benchmarks, see below.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<IpAddr>,
    /// Destination address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) destination: Option<IpAddr>,
    /// Source MAC address.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:01")]
    pub(crate) source_mac: MacAddress,
    /// Destination MAC address.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:02")]
    pub(crate) destination_mac: MacAddress,
    /// The first flow's UDP source port; the next ones count up.
    #[arg(long, value_name = "PORT", default_value_t = 1024)]
    pub(crate) source_port: u16,
    /// The UDP destination port; counts up once the source ports are used up.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    pub(crate) destination_port: u16,
    /// Sends the frames through a VXLAN tunnel, in this network; --frame is the size inside.
    #[arg(long, value_name = "VNI", value_parser = vni,
          requires_all = ["tunnel_source", "tunnel_destination"])]
    pub(crate) vxlan: Option<Vni>,
    /// The address of the sending end of the tunnel.
    #[arg(long, value_name = "ADDRESS", requires = "vxlan")]
    pub(crate) tunnel_source: Option<IpAddr>,
    /// The address of the receiving end of the tunnel.
    #[arg(long, value_name = "ADDRESS", requires = "vxlan")]
    pub(crate) tunnel_destination: Option<IpAddr>,
    /// The tunnel's outer source MAC address.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:03")]
    pub(crate) tunnel_source_mac: MacAddress,
    /// The tunnel's outer destination MAC address.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:04")]
    pub(crate) tunnel_destination_mac: MacAddress,
    /// The tunnel's UDP port.
    #[arg(long, value_name = "PORT", default_value_t = 4789)]
    pub(crate) tunnel_port: u16,
    /// The number that tells this generator's packets from others'.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) stream: u16,
    /// Pins the sender's thread to this CPU.
    #[arg(long, value_name = "CPU")]
    pub(crate) tx_cpu: Option<usize>,
    /// Pins the sink's thread to this CPU.
    #[arg(long, value_name = "CPU")]
    pub(crate) rx_cpu: Option<usize>,
    /// The sink looks for frames without a pause: latencies are right to the microsecond, and it
    /// takes a CPU.
    #[arg(long)]
    pub(crate) busy: bool,
    /// Exits with 3 if a larger part than this is lost: 0.005 is half a percent.
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub(crate) loss_limit: Option<f64>,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl PktgenOptions {
    /// The loss ratios to search for, the lowest first.
    pub(crate) fn goals(&self) -> Vec<f64> {
        let mut goals = self.losses.clone();
        if goals.is_empty() {
            goals = vec![0.0, 0.005];
        }
        goals.sort_unstable_by(f64::total_cmp);
        goals
    }

    /// Every frame mix that was asked for, in order.
    pub(crate) fn mixes(&self, addressing: &Addressing) -> Vec<FrameMix> {
        let smallest = addressing.frame_bytes_min();
        let mixes = |frames: &Frames| match frames {
            Frames::Mix(mix) => vec![mix.clone()],
            Frames::Rfc2544 => RFC_2544_SIZES.map(|size| FrameMix::of(size.max(smallest))).into(),
        };
        self.frames.iter().flat_map(mixes).collect()
    }

    fn tunnel(&self) -> Option<Tunnel> {
        Some(Tunnel {
            vni: self.vxlan?,
            source_mac: self.tunnel_source_mac,
            destination_mac: self.tunnel_destination_mac,
            source: self.tunnel_source?,
            destination: self.tunnel_destination?,
            port: self.tunnel_port,
        })
    }

    pub(crate) fn addressing(&self) -> Result<Addressing, FrameSetError> {
        let is_ipv6 = self.ipv6
            || [self.source, self.destination]
                .into_iter()
                .flatten()
                .any(|address| address.is_ipv6());
        let (source, destination): (IpAddr, IpAddr) = if is_ipv6 {
            ([0x2001, 2, 0, 0, 0, 0, 0, 1].into(), [0x2001, 2, 0, 1, 0, 0, 0, 1].into())
        } else {
            ([198, 18, 0, 1].into(), [198, 19, 0, 1].into())
        };
        let (source, destination) =
            (self.source.unwrap_or(source), self.destination.unwrap_or(destination));
        if source.is_ipv4() != destination.is_ipv4() || (self.ipv6 && source.is_ipv4()) {
            return Err(FrameSetError::MixedFamilies { source, destination });
        }
        Ok(Addressing {
            source_mac: self.source_mac,
            destination_mac: self.destination_mac,
            source,
            destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            tunnel: self.tunnel(),
        })
    }
}

/// What one `--frame` stands for.
#[derive(Clone, Debug)]
pub(crate) enum Frames {
    /// One row.
    Mix(FrameMix),
    /// A row for each size, the first as small as the headers allow.
    Rfc2544,
}

impl Frames {
    fn parse(text: &str) -> Result<Self, FrameMixError> {
        if text == "rfc2544" { Ok(Self::Rfc2544) } else { text.parse().map(Self::Mix) }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    // The longest trial's times have room in a tag: see `perf::pktgen::tag`.
    match text.parse() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds, from 0.001 to 86400".into()),
    }
}

fn vni(text: &str) -> Result<Vni, String> {
    let vni = text.parse().ok().and_then(Vni::new);
    vni.ok_or_else(|| format!("give a number up to {}", Vni::MAX))
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("give a ratio from 0 to 1, such as 0.005".into()),
    }
}
