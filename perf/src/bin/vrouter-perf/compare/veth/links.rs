//! Two veth pairs between a generator's namespace and a device's, and the kernel as the device.

use std::net::Ipv4Addr;

use anyhow::Context;
use encap::MacAddress;
use perf::{
    peers::{Namespace, PeerError, run},
    pktgen::{frames::Addressing, trial::End},
    traffic,
};

use super::super::options::CompareCase;

/// The far end of the tunnel.
const PEER: &str = "192.0.2.2";
const PEER_MAC: &str = "02:00:00:00:00:02";

/// Both namespaces, and the pairs `in0`–`in1` and `out0`–`out1`.
pub(super) struct Links {
    generator: Namespace,
    pub(super) device: Namespace,
}

impl Links {
    /// Makes them; `name` tells them from others'.
    pub(super) fn new(name: &str) -> Result<Self, PeerError> {
        let generator = Namespace::new(&format!("{name}-gen"))?;
        let device = Namespace::new(&format!("{name}-dev"))?;
        for pair in ["in", "out"] {
            let (near, far) = (format!("{pair}0"), format!("{pair}1"));
            let peer = ["type", "veth", "peer", "name", &far, "netns", device.name()];
            generator.ip(&[&["link", "add", &near], &peer[..]].concat())?;
            // The kernels' own packets would be counted as others' here, and cost time.
            for (namespace, end) in [(&generator, &near), (&device, &far)] {
                namespace.ip(&["link", "set", end, "addrgenmode", "none"])?;
                namespace.ip(&["link", "set", end, "up"])?;
            }
        }
        Ok(Self { generator, device })
    }

    /// An end of the generator's.
    pub(super) fn end(&self, interface: &str, cpu: usize) -> anyhow::Result<End> {
        let port = format!("af_xdp:{interface},netns={}", self.generator.name());
        Ok(End { port: port.parse()?, cpu: Some(cpu) })
    }

    /// Lets the kernel forward: from `in1` through a bridge to `out1`, or to a VXLAN device above
    /// it, on one CPU.
    pub(super) fn bridge(&self, case: CompareCase, cpu: usize) -> anyhow::Result<()> {
        let ip = |arguments: &str| self.device.ip(&arguments.split(' ').collect::<Vec<_>>());
        ip("link add br0 type bridge")?;
        ip("link set br0 addrgenmode none")?;
        ip("link set in1 master br0")?;
        let out = if case == CompareCase::VethVxlanEncap {
            ip("addr add 192.0.2.1/24 dev out1")?;
            ip(&format!("neigh add {PEER} lladdr {PEER_MAC} dev out1 nud permanent"))?;
            ip(&format!(
                "link add vxlan0 type vxlan id 1 local 192.0.2.1 remote {PEER} dstport 4789 dev out1"
            ))?;
            "vxlan0"
        } else {
            "out1"
        };
        ip(&format!("link set {out} master br0"))?;
        ip(&format!("link set {out} up"))?;
        ip("link set br0 up")?;
        let to = addressing(case).context("the case has no frames")?.destination_mac.to_string();
        run(self
            .device
            .command("bridge")
            .args(["fdb", "add", &to, "dev", out, "master", "static"]))?;
        // Netfilter, where it looks at bridged packets, and the CPU that receives them.
        let steer = format!(
            "for knob in /proc/sys/net/bridge/bridge-nf-call-*; do \
                 [ ! -e $knob ] || echo 0 >$knob; done; \
             printf '%x' {} >/sys/class/net/in1/queues/rx-0/rps_cpus",
            1_u128 << cpu
        );
        run(self.device.command("sh").args(["-ec", &steer]))?;
        Ok(())
    }
}

/// The ends of frames that our engine knows in a case.
pub(super) fn addressing(case: CompareCase) -> Option<Addressing> {
    let frame = traffic::frame(case.ours().way(), 0, 0, 64);
    let mac = |at: usize| Some(MacAddress::new(*frame.get(at..)?.first_chunk()?));
    let ip = |at: usize| Some(Ipv4Addr::from(*frame.get(at..)?.first_chunk::<4>()?).into());
    Some(Addressing {
        source_mac: mac(6)?,
        destination_mac: mac(0)?,
        source: ip(26)?,
        destination: ip(30)?,
        source_port: 1024,
        destination_port: 9,
        tunnel: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_from_a_pod_to_the_gateways_mac() {
        let addressing = addressing(CompareCase::VethVxlanEncap).unwrap();
        assert_eq!(addressing.source_mac, MacAddress::from_ip(addressing.source));
        assert!(addressing.destination.to_string().starts_with("10.244.2."));
    }
}
