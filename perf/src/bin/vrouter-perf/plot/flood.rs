//! The section about floods of first packets.

use super::{
    document::{Section, Table, goal, grouped, spread},
    results::FloodRow,
};

const METHOD: &str = "\
Two pods of one node establish TCP connections; then SYNs of ten times as many connections as the flow \
table holds come in, and then a segment of each established one. The time is the pipeline's for a SYN, \
slow path and eviction included. Lost are established connections that were not known any more.";

/// The section, if floods were measured.
pub(super) fn section(rows: Option<&[FloodRow]>) -> Section {
    let Some(rows) = rows else { return Section::default() };
    let mut section = Section::new("Floods", &[METHOD]);
    let mut table = Table::new(&[
        "case",
        "#connections",
        "#established",
        "#packets",
        "ns/packet",
        "#gave way",
        "#refused",
        "#lost",
        "budget",
    ]);
    for row in rows {
        table.push(&[
            row.case.clone(),
            grouped(row.connections),
            grouped(row.established),
            grouped(row.packets),
            spread(row.ns_per_packet, 0),
            row.evicted_half_open.to_string(),
            row.refused.to_string(),
            row.established_lost.to_string(),
            goal("none lost", row.established_lost == 0),
        ]);
    }
    section.push(&table.into_text());
    section
}
