//! The section about other dataplanes.

use super::{
    chart::{Bar, Chart, Group},
    document::{Section, Table, flows, goal, grouped, spread},
    results::{CompareRow, Comparison},
};

const OURS: &str = "vrouter";
/// Packets for each of another's, at least, by case.
const GOALS: [(&str, &str, f64); 8] = [
    ("conntrack", SWITCH, 2.0),
    ("conntrack-vxlan-encap", SWITCH, 2.0),
    ("vxlan-encap", SWITCH, 1.3),
    ("vhost-conntrack", SWITCH, 3.0),
    ("vhost-conntrack-vxlan-encap", SWITCH, 3.0),
    ("vhost-vxlan-encap", SWITCH, 1.3),
    ("vhost-vxlan-decap", SWITCH, 1.7),
    ("vhost-macswap", "testpmd-net_vhost", 1.0),
];
/// Packets over packed rings for each over split ones, at least, where there is only the port.
const PACKED: (&str, &str, f64) = ("vhost-macswap", "vrouter-packed", 1.15);
/// What charts' cases begin with, and charts' names and titles. The first that fits is a case's.
const CHARTS: [(&str, &str, &str); 3] = [
    ("veth-", "compare-veth", "The kernel and AF_XDP between veth pairs"),
    ("vhost-", "compare-vhost", "Dataplanes between vhost-user ports, on one core"),
    ("", "compare", "Dataplanes on one core"),
];
const SWITCH: &str = "open-vswitch-dpdk";

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
told is the highest rate at which at most 0.5 % are lost, as cycles between two packets. In the \
`vhost-` cases one generator drives all: a vhost-user frontend with rings of 1,024 entries on the \
other CPU, which offers frames that were written once as fast as they are taken, writes descriptors \
and no frames, and counts what comes back; no side sees frames that another does not. A figure is the \
median of slices of 5 ms, and of the rounds; frames of a round are waited for until all have come or \
are lost, and a round with more than 1 % lost is an error and not a figure. `generator limited` says \
that the dataplane had nothing to do in more than 5 % of the generator's polls.";

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
    for (beginning, name, title) in CHARTS {
        let is_of = |row: &&CompareRow| {
            let mut fits = CHARTS.iter().filter(|(its, ..)| row.case.starts_with(its));
            fits.next().is_some_and(|(its, ..)| *its == beginning)
        };
        let rows: Vec<&CompareRow> = rows.iter().filter(is_of).collect();
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
        table.push(&[
            row.case.clone(),
            grouped(row.flows),
            row.dataplane.clone(),
            spread(row.cycles_per_packet, 1),
            spread(row.mpps, 2),
            spread(row.vrouter_ratio, 2),
            row.not_fair.clone(),
            row.remarks.join("; "),
        ]);
    }
    table.into_text()
}

fn reached(row: &CompareRow) -> Option<String> {
    let ratio = row.vrouter_ratio.median;
    let (case, flows) = (&row.case, flows(row.flows));
    let (packed_case, packed, least) = PACKED;
    if *case == packed_case && row.dataplane == packed {
        // The row tells what split rings make of each of its packets.
        let ratio = 1.0 / ratio;
        let text = format!("{case}, {flows}: packed {ratio:.2} × split rings, at least {least}");
        return Some(goal(&text, ratio >= least));
    }
    let is_it = |(of, rival, _): &&(&str, &str, f64)| *of == case && *rival == row.dataplane;
    let (_, rival, least) = GOALS.iter().find(is_it)?;
    let text = format!("{case}, {flows}: {ratio:.2} × {rival}, at least {least}");
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
