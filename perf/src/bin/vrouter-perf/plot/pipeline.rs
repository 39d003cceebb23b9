//! The section about the engine's worker.

use super::{
    chart::{Bar, Chart, Group},
    document::{Section, Table, flows, goal, spread},
    results::PipelineRow,
};

/// Cycles a packet at most, by case: with 1 flow, 10,000 and 2^20.
const BUDGETS: [(&str, [f64; 3]); 5] = [
    ("ipv4-routed", [80.0, 100.0, 170.0]),
    ("vxlan-encap", [105.0, 125.0, 195.0]),
    ("vxlan-decap", [105.0, 130.0, 200.0]),
    ("ipv6-routed", [95.0, 115.0, 190.0]),
    ("new-flow", [900.0, 900.0, 900.0]),
];
const BUDGET_FLOWS: [u32; 3] = [1, 10_000, 1 << 20];

const METHOD: &str = "\
The engine of production with one pinned worker in its busy mode, from a file in memory, round and \
round, to a sink: so there is neither a kernel nor a generator in the figure. It holds the source's \
copy, the poll, the pipeline with all its counters, the sink and the frees. Every packet's connection \
is looked up and its state kept. Each case is warmed up until every flow is known, and then cut into \
windows; cycles of the time-stamp counter a packet, median [range] of the windows. `new-flow` are \
first packets: decided, entered for both directions, and sent.";

const NOT_FAIR: [&str; 3] = [
    "Frames come from memory that the cache may hold: with one flow they always do. A NIC writes them \
     to memory, and its driver's descriptors come on top.",
    "The time-stamp counter has a constant rate; the core's own clock may be faster or slower.",
    "There is one worker; what cores share (memory bandwidth, the last cache) is not contended for.",
];

pub(super) fn section(rows: Option<&[PipelineRow]>, plots: &str) -> Section {
    let mut section = Section::new("Pipeline", &[METHOD]);
    let Some(rows) = rows else {
        section.push("Not measured in this run.");
        return section;
    };
    let mut table = Table::new(&[
        "case",
        "flows",
        "#frame",
        "#cycles a packet",
        "#Mpps",
        "#allocations",
        "#drops",
        "budget",
        "remarks",
    ]);
    for row in rows {
        table.push(&[
            row.case.clone(),
            flows(row.flows),
            row.frame_bytes.to_string(),
            spread(row.cycles_per_packet, 1),
            format!("{:.2}", row.mpps),
            format!("{:.2}", row.allocations_per_packet),
            row.drops.to_string(),
            budget(row).unwrap_or_default(),
            row.marks.join("; "),
        ]);
    }
    section.push(&table.into_text());
    section.push_chart(chart(rows), plots);
    section.push("### What is not alike");
    section.push("The budgets come from figures that other projects publish, with NICs.");
    section.push_list(&NOT_FAIR.map(str::to_owned));
    section
}

/// The budget, and whether it is met; of the small frames that it is for.
fn budget(row: &PipelineRow) -> Option<String> {
    let (_, budgets) = BUDGETS.iter().find(|(case, _)| *case == row.case)?;
    let index = BUDGET_FLOWS.iter().position(|flows| *flows == row.flows);
    let budget = if row.case == "new-flow" { budgets.first() } else { budgets.get(index?) }?;
    (row.frame_bytes <= 64)
        .then(|| goal(&format!("≤ {budget}"), row.cycles_per_packet.median <= *budget))
}

fn chart(rows: &[PipelineRow]) -> Chart {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let bar = Bar { label: flows(row.flows), figures: row.cycles_per_packet, is_ours: true };
        let label = format!("{}, {} bytes", row.case, row.frame_bytes);
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label, bars: vec![bar] }),
        }
    }
    let title = "Pipeline: cycles a packet (less is better)".into();
    Chart { name: "pipeline".into(), title, groups }
}
