//! The section about the flow table.

use super::{
    chart::{Bar, Chart, Group},
    document::{Section, Table, flows, goal, spread},
    results::FlowtableRow,
};

const OURS: &str = "vrouter";
/// A hit may take so many times what the sketch of the limit takes.
const HIT_TO_SKETCH_MAX: f64 = 1.1;
/// A miss may take that part of a hit.
const MISS_TO_HIT_MAX: f64 = 0.7;
/// Beside a thread that inserts and removes, a hit may take so many times as long.
const CHURN_TO_HIT_MAX: f64 = 1.3;
/// Connections a second, both directions each.
const INSERTS_PER_SECOND_MIN: f64 = 4e6;
/// Bytes of memory for an IPv4 direction, all told.
const BYTES_MAX: f64 = 128.0;
/// Connections a second that the other thread should come to, less some.
const CHURN_PER_SECOND_MIN: f64 = 475_000.0;

/// Cases, and how they are called here.
const CASES: [(&str, &str); 4] = [
    ("lookup-hit", "Lookup, hit"),
    ("lookup-miss", "Lookup, miss"),
    ("insert-pair", "Insert a connection, both directions"),
    ("lookup-under-churn", "Lookup while another thread inserts and removes"),
];

const METHOD: &str = "\
Random keys of IPv4 connections in bursts of 64; half of the slots are taken, 85 % for misses. Every \
table is filled first; then each round measures one table after the other, so that a machine that \
changes its speed changes it for all. `rte_hash` and the sketch run as processes of their own on the \
same CPU, their tables kept (`rte_hash`) or made anew (the sketch) from round to round. Nanoseconds \
an operation, median [range] of the rounds; for inserts, a connection with both directions.";

const NOT_FAIR: [&str; 5] = [
    "`vrouter` keeps connection states, enters both directions in one step, tells stale entries, \
     and hashes with a key; nobody else here does all of it.",
    "`dashmap`, `papaya`, `scc` and the standard map behind one lock (`rwlock-hashmap`) look one key \
     up after the other: they have no interface for bursts. All of them hash with `ahash`, which is \
     faster than their own choice, and check the value they find.",
    "`rte_hash` (DPDK) looks up in bursts and reads without locks. It hashes with CRC32, whose \
     collisions do not depend on a key, and is not charged for reading the action that it finds. The \
     number of its slots is a power of two: to have 85 % of them taken, it may hold more connections \
     than the others, which nobody looks up.",
    "The sketch is a limit, not a table: no locks, no versions, CRC32, no removal. Its time is what \
     it tells of itself: the median of seven passes over 2^20 keys.",
    "`vrouter`, `rte_hash` and the sketch lie on huge pages if there are any; the maps lie on the \
     heap.",
];

pub(super) fn section(rows: Option<&[FlowtableRow]>, plots: &str) -> Section {
    let mut section = Section::new("Flow table", &[METHOD]);
    let Some(rows) = rows else {
        section.push("Not measured in this run.");
        return section;
    };
    for (case, title) in CASES {
        let rows: Vec<&FlowtableRow> = rows.iter().filter(|row| row.case == case).collect();
        if rows.is_empty() {
            continue;
        }
        section.push(&format!("### {title}"));
        section.push(&table(&rows));
        section.push_chart(chart(case, title, &rows), plots);
    }
    let goals = goals(rows);
    if !goals.is_empty() {
        section.push("### Goals");
        section.push_list(&goals);
    }
    section.push("### What is not alike");
    section.push_list(&NOT_FAIR.map(str::to_owned));
    section
}

fn table(rows: &[&FlowtableRow]) -> String {
    let mut table =
        Table::new(&["flows", "table", "#ns", "#times vrouter's", "#bytes a direction", "remarks"]);
    for row in rows {
        let ours = rows.iter().find(|it| it.table == OURS && it.flows == row.flows);
        let ratio = ours.map(|ours| row.ns_per_op.median / ours.ns_per_op.median);
        table.push(&[
            flows(row.flows),
            row.table.clone(),
            spread(row.ns_per_op, 1),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            format!("{:.0}", row.bytes_per_direction),
            remarks(row),
        ]);
    }
    table.into_text()
}

fn remarks(row: &FlowtableRow) -> String {
    let preempted =
        (row.rounds_preempted > 0).then(|| format!("preempted in {} rounds", row.rounds_preempted));
    let slow = row
        .churn_per_second
        .filter(|rate| *rate < CHURN_PER_SECOND_MIN)
        .map(|rate| format!("only {:.0} k connections/s beside it", rate / 1e3));
    let small = (row.is_on_huge_pages == Some(false)).then(|| "on 4 KiB pages".to_owned());
    [preempted, slow, small].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn chart(case: &str, title: &str, rows: &[&FlowtableRow]) -> Chart {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let label = flows(row.flows);
        let bar =
            Bar { label: row.table.clone(), figures: row.ns_per_op, is_ours: row.table == OURS };
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label, bars: vec![bar] }),
        }
    }
    let name = format!("flowtable-{case}");
    Chart { name, title: format!("{title}: nanoseconds (less is better)"), groups }
}

fn goals(rows: &[FlowtableRow]) -> Vec<String> {
    let median = |table: &str, case: &str, flows: u32| {
        let row =
            rows.iter().find(|row| (&*row.table, &*row.case, row.flows) == (table, case, flows));
        row.map(|row| row.ns_per_op.median)
    };
    let mut sizes: Vec<u32> = rows.iter().map(|row| row.flows).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut goals = Vec::new();
    let mut judge = |what: &str, size: u32, value: Option<f64>, limit: f64| {
        if let Some(value) = value {
            let text = format!("{what}, {}: {value:.2}, at most {limit}", flows(size));
            goals.push(goal(&text, value <= limit));
        }
    };
    for size in sizes {
        let ours = |case: &str| median(OURS, case, size);
        let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
        let hit = ours("lookup-hit");
        let sketch = median("sketch", "lookup-hit", size);
        judge("a hit to the sketch's", size, ratio(hit, sketch), HIT_TO_SKETCH_MAX);
        judge("a miss to a hit", size, ratio(ours("lookup-miss"), hit), MISS_TO_HIT_MAX);
        let churn = ratio(ours("lookup-under-churn"), hit);
        judge("a hit under churn to a quiet one", size, churn, CHURN_TO_HIT_MAX);
        let insert = ours("insert-pair");
        judge("nanoseconds a connection inserted", size, insert, 1e9 / INSERTS_PER_SECOND_MIN);
        let full = rows
            .iter()
            .find(|row| row.table == OURS && row.case == "lookup-miss" && row.flows == size);
        let bytes = full.map(|row| row.bytes_per_direction);
        judge("bytes an IPv4 direction, as full as it may be", size, bytes, BYTES_MAX);
    }
    goals
}
