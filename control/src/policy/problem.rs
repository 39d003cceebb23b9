//! What can be wrong with a policy: the object, the field, the consequence and the next step.

use ipnet::IpNet;

/// A field of a policy that says nothing possible, and what becomes of the policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("NetworkPolicy {policy}: {field}: {fault}; {consequence}")]
pub struct PolicyProblem {
    /// The policy, as `namespace/name`.
    pub policy: String,
    /// The field's path, such as `spec.ingress[0].ports[1].endPort`.
    pub field: String,
    /// What is wrong with it.
    pub fault: Fault,
    /// What is not in force because of it.
    pub consequence: Consequence,
}

/// What of a policy is not in force. The rest is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Consequence {
    /// The pods stay isolated, and the rule lets nothing through.
    #[error("until it is mended this rule allows nothing, and the rest of the policy holds")]
    RuleAllowsNothing,
    /// Whom the policy is for can be told in part only: whoever may be meant is isolated.
    #[error(
        "until it is mended the policy isolates all pods that the rest of it selects, and allows \
         nothing"
    )]
    PolicyAllowsNothing,
    /// Either direction may have been meant.
    #[error("until it is mended the policy isolates in both directions, and its rules hold")]
    IsolatesBoth,
}

impl Consequence {
    /// All there are.
    pub const ALL: [Self; 3] =
        [Self::RuleAllowsNothing, Self::PolicyAllowsNothing, Self::IsolatesBoth];

    /// A word for programs, also a metric's label: never renamed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RuleAllowsNothing => "rule_allows_nothing",
            Self::PolicyAllowsNothing => "policy_allows_nothing",
            Self::IsolatesBoth => "isolates_both",
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Fault {
    #[error("`{text}` is not a block of addresses such as 10.0.0.0/8 or fd00::/8")]
    Block { text: String },
    #[error("{except} is not a part of {block}; name a smaller block within it")]
    ExceptOutside { except: IpNet, block: IpNet },
    #[error("a peer must say who it is; set ipBlock, podSelector or namespaceSelector")]
    EmptyPeer,
    #[error("a peer is either a block or selected by labels; make two peers of it")]
    BlockAndSelector,
    #[error("{port} is not a port; write 1 to 65535")]
    PortNumber { port: i32 },
    #[error(
        "`{name}` is not a port's name: at most 15 of a-z, 0-9 and inner single `-`, with a letter \
         (a number is written without quotes)"
    )]
    PortName { name: String },
    #[error("`{word}` is not a protocol with ports; write TCP, UDP or SCTP")]
    UnknownProtocol { word: String },
    #[error("a range needs the number it begins with; set port, too")]
    EndWithoutPort,
    #[error("a named port is no range; write port as a number, or leave endPort out")]
    EndWithName,
    #[error("{end} is below port, which is {port}; swap the two")]
    EndBelowPort { port: u16, end: i32 },
    #[error("`{operator}` is not an operator; write In, NotIn, Exists or DoesNotExist")]
    UnknownOperator { operator: String },
    #[error("{operator} needs at least one value")]
    ValuesMissing { operator: String },
    #[error("{operator} takes no values; remove them, or write In or NotIn")]
    ValuesUnexpected { operator: String },
    #[error("`{key}` cannot be a label's key")]
    LabelKey { key: String },
    #[error("there is no such field; write one of {known}")]
    UnknownField { known: String },
    #[error("it is {found} and must be {expected}")]
    WrongType { found: &'static str, expected: &'static str },
    #[error("{count} exceptions are more than {max}; write larger ones, or make several rules")]
    TooManyExcepts { count: usize, max: usize },
    #[error(
        "{peers} peers with {ports} ports each are more than {max} pairs; write ranges of ports \
         and larger blocks, or make several rules"
    )]
    TooManyPairs { peers: usize, ports: usize, max: usize },
    #[error(
        "with this rule the policy has more than {max} peers in this direction; write larger \
         blocks, or select peers by fewer labels"
    )]
    TooManyPeers { max: usize },
    #[error(
        "the rules for one pod are more than the engine takes, which is {rules_max} peers, \
         {prefixes_max} blocks and exceptions, and {bytes_max} bytes; write larger blocks and \
         ranges of ports, or have fewer policies select the pod"
    )]
    NoRoom { rules_max: usize, prefixes_max: usize, bytes_max: usize },
    #[error("more than {max} policies select one pod; have fewer of them select it")]
    TooManyPolicies { max: usize },
    #[error("`{word}` is not a type of policy; write Ingress or Egress")]
    UnknownType { word: String },
}

/// A fault and the field that has it; the policy is added by whoever knows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FieldFault {
    pub(super) field: String,
    pub(super) fault: Fault,
}

impl Fault {
    pub(super) fn at(self, field: impl Into<String>) -> FieldFault {
        FieldFault { field: field.into(), fault: self }
    }
}
