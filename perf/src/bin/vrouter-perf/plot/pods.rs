//! The section about pods with ordinary sockets.

use super::{
    chart::{Bar, Chart, Group},
    document::{Section, Table, goal, spread},
    results::{Comparison, PodRow},
};

/// Charts' names and titles, and the unit of the rows that they show.
const CHARTS: [(&str, &str, &str); 2] = [
    ("pods-tcp", "iperf3 TCP between two pods: Gbit/s (more is better)", "Gbit/s"),
    ("pods-round-trips", "One byte and back between two pods: µs (less is better)", "µs"),
];

const METHOD: &str = "\
Two pods in namespaces of their own, IPv4, an MTU of 1500 on one node and of 1450 across nodes. `pods-` \
is between pods of one node, `nodes-` between pods of two nodes over VXLAN. `tcp-1` and `tcp-8` are \
iperf3 with one and with eight connections: payload that arrived. Congestion control is cubic, \
Linux's default; with `-bbr`, where the kernel has it, it is BBR, which paces each packet by a timer, so \
that timers and the delay of the way are measured more than copies. `round-trips` is one byte over TCP \
and one back, again and again: the median of each round. In every round each dataplane is measured \
once, one after the other; medians [range] of the rounds. The ratio is vrouter-tap's figure as a part \
of the row's, taken within each round: for TCP more is better, for round trips less is.

Which CPU does what decides such figures. For TCP, client and server share one CPU in all rows but \
those that say otherwise, and the kernel's bridge does its work there, too; the engine has another CPU \
to itself (two CPUs against one: that is what an engine costs). Of round trips, the kernel's are \
measured twice: with client and server on one CPU, where nothing ever waits for another CPU to wake \
up, and on one each, as two pods of a node mostly are. With an engine, which has a CPU of its own, \
every byte crosses CPUs, so that the second is what is held against it.

`idle-taps` is an engine with 250 TAP ports that nobody uses, beside one without any: the ratio is what \
the ports make of the row's figure.";

pub(super) fn section(comparison: Option<&Comparison>, plots: &str) -> Section {
    let mut section = Section::new("Pods with ordinary sockets", &[METHOD]);
    let rows = comparison.map(|it| &it.pods[..]).unwrap_or_default();
    if rows.is_empty() {
        section.push("Not measured in this run.");
        return section;
    }
    section.push(&table(rows));
    for (name, title, unit) in CHARTS {
        let rows: Vec<&PodRow> = rows.iter().filter(|row| row.unit == unit).collect();
        if !rows.is_empty() {
            section.push_chart(chart(name, title, &rows), plots);
        }
    }
    let goals: Vec<String> = rows.iter().filter_map(reached).collect();
    if !goals.is_empty() {
        section.push("### Goals");
        section.push_list(&goals);
    }
    section
}

fn table(rows: &[PodRow]) -> String {
    let mut table = Table::new(&[
        "case",
        "dataplane",
        "#figure",
        "unit",
        "#ratio",
        "what is not alike",
        "remarks",
    ]);
    for row in rows {
        let digits = if row.is_latency() { 1 } else { 2 };
        let remarks = [
            row.p99.map(|p99| format!("99 % within {} µs", spread(p99, 1))),
            (row.retransmits > 0).then(|| format!("{} segments sent again", row.retransmits)),
        ];
        let remarks: Vec<String> = remarks.into_iter().flatten().collect();
        table.push(&[
            row.case.clone(),
            row.dataplane.clone(),
            spread(row.figures, digits),
            row.unit.clone(),
            spread(row.vrouter_ratio, 2),
            row.not_fair.clone(),
            remarks.join("; "),
        ]);
    }
    table.into_text()
}

fn reached(row: &PodRow) -> Option<String> {
    let (bound, ratio) = (row.goal?, row.vrouter_ratio.median);
    let (words, is_met) =
        if row.is_latency() { ("at most", ratio <= bound) } else { ("at least", ratio >= bound) };
    let text = format!("{}: {ratio:.2} × {}, {words} {bound:.1}", row.case, row.dataplane);
    Some(goal(&text, is_met))
}

fn chart(name: &str, title: &str, rows: &[&PodRow]) -> Chart {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let bar = Bar {
            label: row.dataplane.clone(),
            figures: row.figures,
            is_ours: row.dataplane.starts_with("vrouter"),
        };
        match groups.iter_mut().find(|group| group.label == row.case) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label: row.case.clone(), bars: vec![bar] }),
        }
    }
    Chart { name: name.into(), title: title.into(), groups }
}

impl PodRow {
    fn is_latency(&self) -> bool {
        self.unit == "µs"
    }
}
