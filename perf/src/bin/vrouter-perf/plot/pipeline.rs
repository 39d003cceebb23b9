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
/// What a mix may cost of what its directions cost alone, on average.
const MIX_MAX: f64 = 1.3;
/// The directions of the mix.
const DIRECTIONS: [&str; 4] = ["ipv4-routed", "ipv6-routed", "vxlan-encap", "vxlan-decap"];
/// What changes of the configuration and scrapes of statistics may cost, in per cent.
const CHURN_PERCENT_MAX: f64 = 3.0;
/// What policy may cost a packet of a known flow, in per cent: nothing, but for what windows
/// differ.
const POLICY_PERCENT_MAX: f64 = 2.0;

const METHOD: &str = "\
The engine of production with one pinned worker in its busy mode, from a file in memory, round and \
round, to a sink: so there is neither a kernel nor a generator in the figure. It holds the source's \
copy, the poll, the pipeline with all its counters, the sink and the frees. Every packet's connection \
is looked up and its state kept. Each case is warmed up until every flow is known, and then cut into \
windows; cycles of the time-stamp counter a packet, median [range] of the windows. `new-flow` are \
first packets: decided, entered for both directions, and sent. `mix` comes in on 20 ports in all four \
directions. `churn` is `ipv4-routed` while the configuration changes all the time and statistics are \
scraped, in windows between quiet ones; `policy` is `ipv4-routed` while both pods are isolated by \
1,000 policies that name 10,000 addresses, in windows between those without.";

const NOT_FAIR: [&str; 5] = [
    "Frames come from memory that the cache may hold: with one flow they always do. A NIC writes them \
     to memory, and its driver's descriptors come on top.",
    "The time-stamp counter has a constant rate; the core's own clock may be faster or slower.",
    "There is one worker; what cores share (memory bandwidth, the last cache) is not contended for.",
    "No service is set, for there are none yet; sources and connections are checked. Policy is set in \
     `policy` only.",
    "Churn changes routes that no measured flow takes: every flow meets each new version and is found \
     right under it; none is judged anew.",
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
            budget(row, rows).unwrap_or_default(),
            remarks(row),
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
fn budget(row: &PipelineRow, rows: &[PipelineRow]) -> Option<String> {
    if row.frame_bytes > 64 {
        return None;
    }
    let cycles = row.cycles_per_packet.median;
    match &*row.case {
        case @ ("churn" | "policy") => {
            let max = if case == "churn" { CHURN_PERCENT_MAX } else { POLICY_PERCENT_MAX };
            let percent = (cycles / row.quiet_cycles_per_packet?.median - 1.0) * 100.0;
            let is_met = percent <= max && row.drops == 0;
            let text = format!("{percent:+.1} %, ≤ {max} % and no drop");
            Some(goal(&text, is_met))
        }
        "mix" => {
            let alone = |case: &&str| {
                let is_it = |it: &&PipelineRow| it.case == **case && it.flows == row.flows;
                Some(rows.iter().find(is_it)?.cycles_per_packet.median)
            };
            let alone: Vec<f64> = DIRECTIONS.iter().map_while(alone).collect();
            // Each has a quarter of the packets.
            let mean = (alone.len() == DIRECTIONS.len()).then(|| alone.iter().sum::<f64>() / 4.0);
            let ratio = cycles / mean?;
            Some(goal(&format!("{ratio:.2} × alone, ≤ {MIX_MAX}"), ratio <= MIX_MAX))
        }
        case => {
            let (_, budgets) = BUDGETS.iter().find(|(name, _)| *name == case)?;
            let index = BUDGET_FLOWS.iter().position(|flows| *flows == row.flows);
            let first = (case == "new-flow").then_some(0);
            let budget = budgets.get(first.or(index)?)?;
            Some(goal(&format!("≤ {budget}"), cycles <= *budget))
        }
    }
}

fn remarks(row: &PipelineRow) -> String {
    let updates = row.updates_per_second.map(|rate| format!("{rate:.0} updates/s"));
    let quiet = row.quiet_cycles_per_packet.map(|quiet| format!("{} without", spread(quiet, 1)));
    let marks = row.marks.iter().cloned();
    quiet.into_iter().chain(updates).chain(marks).collect::<Vec<_>>().join("; ")
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
