//! Address sets and policy sets of the API, parsed into types that only hold what is possible.

use std::net::IpAddr;

pub use control_api::policy::SET_RULES_MAX;
use control_api::{
    engine as api,
    policy::{RULE_ITEMS_MAX, SET_POLICIES_MAX},
};

use crate::{
    config::{
        error::{ApplyError, FieldError, Problem},
        field,
        object::NAME_BYTES_MAX,
    },
    policy::{AddressSetObject, IpBlock, PolicyRule, PolicySetObject, PortRange},
};

/// Addresses of one set at most: a cluster of 100,000 pods with both families, and room.
pub const SET_ADDRESSES_MAX: usize = 1 << 18;

/// Protocols that have ports: TCP, UDP and SCTP.
pub(crate) const PROTOCOLS_WITH_PORTS: [u8; 3] = [6, 17, 132];

impl TryFrom<api::AddressSet> for AddressSetObject {
    type Error = ApplyError;

    /// Fails with the first field that is not possible.
    fn try_from(set: api::AddressSet) -> Result<Self, ApplyError> {
        let label = address_set_label(set.id);
        parse_address_set(&set).map_err(|error| error.of(label))
    }
}

impl TryFrom<api::PolicySet> for PolicySetObject {
    type Error = ApplyError;

    /// Fails with the first field that is not possible.
    fn try_from(set: api::PolicySet) -> Result<Self, ApplyError> {
        let label = policy_set_label(set.id);
        parse_policy_set(set).map_err(|error| error.of(label))
    }
}

pub(in crate::config) fn address_set_label(id: u64) -> String {
    format!("address set {id:016x}")
}

pub(in crate::config) fn policy_set_label(id: u64) -> String {
    format!("policy set {id:016x}")
}

fn parse_address_set(set: &api::AddressSet) -> Result<AddressSetObject, FieldError> {
    check_id(set.id)?;
    let (v4, rest_v4) = set.ipv4.as_chunks::<4>();
    let (v6, rest_v6) = set.ipv6.as_chunks::<16>();
    for (field, bytes, rest, size) in
        [("ipv4", &set.ipv4, rest_v4, 4), ("ipv6", &set.ipv6, rest_v6, 16)]
    {
        if !rest.is_empty() {
            let problem = Problem::NotWhole { bytes: bytes.len(), size };
            return Err(FieldError::new(field, problem));
        }
    }
    field::at_most("ipv4 and ipv6", v4.len() + v6.len(), SET_ADDRESSES_MAX)?;
    check_ascending("ipv4", v4)?;
    check_ascending("ipv6", v6)?;
    // IPv4 addresses are less than IPv6 addresses.
    let v4 = v4.iter().map(|octets| IpAddr::from(*octets));
    let v6 = v6.iter().map(|octets| IpAddr::from(*octets));
    Ok(AddressSetObject { id: set.id, addresses: v4.chain(v6).collect() })
}

fn check_ascending<const N: usize>(field: &str, addresses: &[[u8; N]]) -> Result<(), FieldError>
where
    IpAddr: From<[u8; N]>,
{
    let after = addresses.iter().skip(1);
    match addresses.iter().zip(after).position(|(before, after)| before >= after) {
        Some(position) => {
            let address = addresses.get(position + 1).map(|octets| IpAddr::from(*octets));
            let problem =
                address.map_or(Problem::Missing, |address| Problem::NotAscending { address });
            Err(FieldError::new(format!("{field}[{}]", position + 1), problem))
        }
        None => Ok(()),
    }
}

fn parse_policy_set(set: api::PolicySet) -> Result<PolicySetObject, FieldError> {
    check_id(set.id)?;
    field::at_most("policies", set.policies.len(), SET_POLICIES_MAX)?;
    field::at_most("rules", set.rules.len(), SET_RULES_MAX)?;
    let mut policies = Vec::with_capacity(set.policies.len());
    for (index, name) in set.policies.into_iter().enumerate() {
        policies.push(field::name(&format!("policies[{index}]"), name)?);
    }
    let mut rules = Vec::with_capacity(set.rules.len());
    for (index, rule) in set.rules.into_iter().enumerate() {
        let rule = parse_rule(rule, policies.len()).map_err(|error| FieldError {
            field: format!("rules[{index}].{}", error.field),
            ..error
        })?;
        rules.push(rule);
    }
    Ok(PolicySetObject { id: set.id, policies: policies.into(), rules: rules.into() })
}

fn parse_rule(rule: api::PolicyRule, policies: usize) -> Result<PolicyRule, FieldError> {
    for (field, count) in [
        ("address_sets", rule.address_sets.len()),
        ("blocks", rule.blocks.len()),
        ("ports", rule.ports.len()),
    ] {
        field::at_most(field, count, RULE_ITEMS_MAX)?;
    }
    if rule.policy as usize >= policies {
        let problem = Problem::NoSuch { kind: "policy", name: rule.policy.to_string() };
        return Err(FieldError::new("policy", problem));
    }
    if rule.path.len() > NAME_BYTES_MAX {
        let problem = Problem::TooLong { bytes: rule.path.len(), bytes_max: NAME_BYTES_MAX };
        return Err(FieldError::new("path", problem));
    }
    let mut blocks = Vec::with_capacity(rule.blocks.len());
    for (index, block) in rule.blocks.iter().enumerate() {
        blocks.push(parse_block(&format!("blocks[{index}]"), block)?);
    }
    let mut ports = Vec::with_capacity(rule.ports.len());
    for (index, range) in rule.ports.iter().enumerate() {
        ports.push(parse_ports(&format!("ports[{index}]"), *range)?);
    }
    Ok(PolicyRule {
        is_any_peer: rule.any_peer,
        address_sets: rule.address_sets.into(),
        blocks: blocks.into(),
        ports: ports.into(),
        policy: rule.policy,
        path: rule.path.into(),
    })
}

fn parse_block(path: &str, block: &api::IpBlock) -> Result<IpBlock, FieldError> {
    let Some(prefix) = &block.block else {
        return Err(FieldError::new(format!("{path}.block"), Problem::Missing));
    };
    let prefix = field::prefix(&format!("{path}.block"), prefix)?;
    field::at_most(&format!("{path}.excepts"), block.excepts.len(), RULE_ITEMS_MAX)?;
    let mut excepts = Vec::with_capacity(block.excepts.len());
    for (index, except) in block.excepts.iter().enumerate() {
        let path = format!("{path}.excepts[{index}]");
        let except = field::prefix(&path, except)?;
        if !prefix.contains(&except) {
            return Err(FieldError::new(path, Problem::OutsideBlock { except, block: prefix }));
        }
        excepts.push(except);
    }
    Ok(IpBlock { prefix, excepts: excepts.into() })
}

fn parse_ports(path: &str, ports: api::ProtocolPorts) -> Result<PortRange, FieldError> {
    let protocol = field::in_range(&format!("{path}.protocol"), ports.protocol.into(), 0, 255)?;
    if !PROTOCOLS_WITH_PORTS.contains(&protocol) {
        return Err(FieldError::new(format!("{path}.protocol"), Problem::NoPorts { protocol }));
    }
    let first: u16 = field::in_range(&format!("{path}.first"), ports.first.into(), 0, 65_535)?;
    let last = field::in_range(&format!("{path}.last"), ports.last.into(), first.into(), 65_535)?;
    Ok(PortRange { protocol, first, last })
}

fn check_id(id: u64) -> Result<(), FieldError> {
    if id == 0 {
        return Err(FieldError::new("id", Problem::Missing));
    }
    Ok(())
}
