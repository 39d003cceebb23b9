//! Judging connections that nobody has opened.

use std::{collections::HashMap, net::IpAddr};

use control_api::{
    EXPLAIN_QUERIES_MAX,
    engine::{
        DirectionVerdict, ExplainQuery, ExplainRequest, ExplainResponse, Explanation, MatchedRule,
        direction_verdict,
    },
};
use vrouter::{
    judge::{Connection, Verdict},
    policy::PolicySet,
    snapshot::{Snapshot, VrfIndex},
};

use super::{
    Node,
    queries::{QueryError, address, in_range},
};

/// Connections to be judged, and by what: apart from the engine, which goes on meanwhile.
pub(crate) struct Judging {
    snapshot: Snapshot,
    vrfs: HashMap<u32, VrfIndex>,
    queries: Vec<ExplainQuery>,
}

impl Node {
    /// Prepares the judging of connections by the configuration of now.
    ///
    /// # Errors
    ///
    /// Fails if there are too many.
    pub(crate) fn explain(&mut self, request: ExplainRequest) -> Result<Judging, QueryError> {
        let count = request.queries.len();
        if count > EXPLAIN_QUERIES_MAX {
            let maximum = EXPLAIN_QUERIES_MAX;
            return Err(QueryError::TooMany { field: "queries", count, maximum });
        }
        let snapshot = self.engine.config().last_snapshot().clone();
        let vrfs = (0..).map(VrfIndex).zip(&*snapshot.vrfs);
        let vrfs = vrfs.filter_map(|(index, vrf)| Some((vrf.as_ref()?.id, index))).collect();
        Ok(Judging { snapshot, vrfs, queries: request.queries })
    }
}

impl Judging {
    /// Judges all.
    ///
    /// # Errors
    ///
    /// Fails with the first query that is not possible.
    pub(crate) fn answer(self) -> Result<ExplainResponse, QueryError> {
        let explanations = self.queries.iter().map(|query| self.explain(query));
        Ok(ExplainResponse {
            config_version: self.snapshot.version,
            generation: self.snapshot.generation,
            explanations: explanations.collect::<Result<_, _>>()?,
        })
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, QueryError> {
        let Some(vrf) = self.vrfs.get(&query.vrf) else {
            return Err(QueryError::NoSuchVrf { vrf: query.vrf });
        };
        let (source, destination) = (end(&query.source)?, end(&query.destination)?);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(QueryError::TwoFamilies { from: source, destination });
        }
        let port = query.destination_port.unwrap_or(0);
        let connection = Connection {
            vrf: *vrf,
            source,
            destination,
            protocol: in_range("protocol", query.protocol, u8::MAX)?,
            destination_port: in_range("destination_port", port, u16::MAX)?,
        };
        let [egress, ingress] = self.snapshot.explain(&connection).map(|verdict| message(&verdict));
        Ok(Explanation { egress: Some(egress), ingress: Some(ingress) })
    }
}

fn end(bytes: &[u8]) -> Result<IpAddr, QueryError> {
    address(bytes)?.ok_or(QueryError::AddressLength { bytes: 0 })
}

fn message(verdict: &Verdict<'_>) -> DirectionVerdict {
    use direction_verdict::Verdict as Kind;
    let (kind, set, rule) = match verdict {
        Verdict::NotHere => (Kind::NotHere, None, None),
        Verdict::NotIsolated(_) => (Kind::NotIsolated, None, None),
        Verdict::Itself(_) => (Kind::Itself, None, None),
        Verdict::FromNode(_) => (Kind::FromNode, None, None),
        Verdict::Allowed { set, rule, .. } => (Kind::Allowed, Some(*set), Some(*rule)),
        Verdict::Denied { set, .. } => (Kind::Denied, *set, None),
    };
    let object = set.map(PolicySet::object);
    let matched = set.zip(rule).and_then(|(set, index)| {
        let rule = set.rule(index)?;
        Some(MatchedRule {
            index: index.0,
            policy: set.object().policy_of(rule).to_owned(),
            path: rule.path.to_string(),
        })
    });
    DirectionVerdict {
        verdict: kind.into(),
        port: verdict.port().map(|port| port.name.to_string()).unwrap_or_default(),
        policy_set: object.map_or(0, |object| object.id),
        policies: object.into_iter().flat_map(|it| &it.policies).map(ToString::to_string).collect(),
        rule: matched,
    }
}
