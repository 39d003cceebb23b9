//! Blocks of addresses and their exceptions.

use std::{fmt, net::IpAddr};

use control_api::{engine as api, policy::RULE_ITEMS_MAX};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::IPBlock;

use super::problem::{Fault, FieldFault};

/// A block of addresses without some of its parts.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Block {
    net: IpNet,
    /// Each within the block, smaller than it; sorted, each once.
    excepts: Vec<IpNet>,
}

impl Block {
    pub(super) fn parse(block: &IPBlock, path: &str) -> Result<Self, FieldFault> {
        let net = parse_net(&block.cidr).map_err(|fault| fault.at(format!("{path}.cidr")))?;
        let (count, max) = (block.except.as_ref().map_or(0, Vec::len), RULE_ITEMS_MAX);
        if count > max {
            return Err(Fault::TooManyExcepts { count, max }.at(format!("{path}.except")));
        }
        let mut excepts = Vec::new();
        for (index, text) in block.except.iter().flatten().enumerate() {
            let at = || format!("{path}.except[{index}]");
            let except = parse_net(text).map_err(|fault| fault.at(at()))?;
            if !net.contains(&except) || except == net {
                return Err(Fault::ExceptOutside { except, block: net }.at(at()));
            }
            excepts.push(except);
        }
        excepts.sort();
        excepts.dedup();
        Ok(Self { net, excepts })
    }

    /// Whether an address lies in the block and in none of the exceptions.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.net.contains(&address) && !self.excepts.iter().any(|part| part.contains(&address))
    }
}

impl From<&Block> for api::IpBlock {
    fn from(block: &Block) -> Self {
        let excepts = block.excepts.iter().map(prefix).collect();
        Self { block: Some(prefix(&block.net)), excepts }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net)?;
        self.excepts.iter().try_for_each(|part| write!(f, " except {part}"))
    }
}

/// Kubernetes takes bits beyond the prefix's length, and ignores them.
fn parse_net(text: &str) -> Result<IpNet, Fault> {
    let net: IpNet = text.parse().map_err(|_| Fault::Block { text: text.to_owned() })?;
    Ok(net.trunc())
}

fn prefix(net: &IpNet) -> api::Prefix {
    let address = match net.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    api::Prefix { address, length: u32::from(net.prefix_len()) }
}
