//! The section about other dataplanes.

use super::{
    chart::{Bar, Chart, Group},
    document::{Section, Table, flows, goal, grouped, spread},
    results::{CompareRow, Comparison},
};

const OURS: &str = "vrouter";
/// Packets for each of Open vSwitch's, at least, by case.
const GOALS: [(&str, f64); 3] =
    [("conntrack", 2.0), ("conntrack-vxlan-encap", 2.0), ("vxlan-encap", 1.3)];
/// Charts' names and titles, and whether they are of the cases over veth pairs.
const CHARTS: [(&str, &str, bool); 2] = [
    ("compare", "Dataplanes on one core", false),
    ("compare-veth", "The kernel and AF_XDP between veth pairs", true),
];
const RIVAL: &str = "open-vswitch-dpdk";

const METHOD: &str = "\
All dataplanes get the same frames, round and round, and forward them on the same CPU. In each round \
they are measured one after the other, and whoever's turn it is not is paused, so that a machine that \
changes its speed changes it for all. Open vSwitch runs with DPDK in a namespace of its own: frames \
come from a file (`net_pcap`, `infinite_rx=1`), and go to `net_null`. Its connections are made \
established by replies before; a round in which a packet counted as one of a new connection, or in \
which fewer were sent than received, is an error and not a figure. Cycles of the time-stamp counter a \
packet (idle ones included), median [range] of the rounds. The ratio is how many packets vrouter \
forwards for each of the other's, taken within each round. The `veth-` cases go through the kernel: \
frames come from a generator on the other CPU over one veth pair and leave over another, and what is \
told is the highest rate at which at most 0.5 % are lost, as cycles between two packets.";

pub(super) fn section(comparison: Option<&Comparison>, plots: &str) -> Section {
    let mut section = Section::new("Other dataplanes", &[METHOD]);
    let Some(comparison) = comparison else {
        section.push("Not measured in this run.");
        return section;
    };
    section.push(&format!(
        "Forwarding on CPU {}, everything else elsewhere; the time-stamp counter runs at {:.3} GHz.",
        comparison.cpu,
        comparison.cycles_per_second / 1e9
    ));
    let rows = &comparison.rows;
    section.push(&table(rows));
    for (name, title, is_veth) in CHARTS {
        let rows: Vec<&CompareRow> =
            rows.iter().filter(|row| row.case.starts_with("veth-") == is_veth).collect();
        if !rows.is_empty() {
            section.push_chart(chart(name, title, &rows), plots);
        }
    }
    let goals: Vec<String> = rows.iter().filter_map(reached).collect();
    if !goals.is_empty() {
        section.push("### Goals");
        section.push_list(&goals);
    }
    if !comparison.skipped.is_empty() {
        section.push("### Left out");
        section.push_list(&comparison.skipped);
    }
    if !comparison.failed.is_empty() {
        section.push("### Failed");
        section.push_list(&comparison.failed);
    }
    section
}

fn table(rows: &[CompareRow]) -> String {
    let mut table = Table::new(&[
        "case",
        "flows",
        "dataplane",
        "#cycles a packet",
        "#Mpps",
        "#ratio",
        "what is not alike",
        "remarks",
    ]);
    for row in rows {
        let disturbed = (row.rounds_disturbed > 0)
            .then(|| format!("disturbed in {} of {} rounds", row.rounds_disturbed, row.rounds));
        table.push(&[
            row.case.clone(),
            grouped(row.flows),
            row.dataplane.clone(),
            spread(row.cycles_per_packet, 1),
            spread(row.mpps, 2),
            spread(row.vrouter_ratio, 2),
            row.not_fair.clone(),
            disturbed.unwrap_or_default(),
        ]);
    }
    table.into_text()
}

fn reached(row: &CompareRow) -> Option<String> {
    let (_, least) = GOALS.iter().find(|(case, _)| *case == row.case && row.dataplane == RIVAL)?;
    let ratio = row.vrouter_ratio.median;
    let text =
        format!("{}, {}: {ratio:.2} × Open vSwitch, at least {least}", row.case, flows(row.flows));
    Some(goal(&text, ratio >= *least))
}

fn chart(name: &str, title: &str, rows: &[&CompareRow]) -> Chart {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let label = format!("{}, {}, {} bytes", row.case, flows(row.flows), row.frame_bytes);
        let bar = Bar {
            label: row.dataplane.clone(),
            figures: row.cycles_per_packet,
            is_ours: row.dataplane == OURS,
        };
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label, bars: vec![bar] }),
        }
    }
    let title = format!("{title}: cycles a packet (less is better)");
    Chart { name: name.into(), title, groups }
}
