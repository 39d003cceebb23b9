//! The section about policy.

use perf::figures::Figures;

use super::{
    document::{Section, Table, goal, grouped, spread},
    results::PolicyRow,
};

/// Nanoseconds that judging a connection may take.
const CLASSIFY_MAX: f64 = 500.0;
/// Milliseconds until a pod's change may be in force at a worker.
const CHANGE_MAX: f64 = 10.0;

const METHOD: &str = "\
What policy costs where it is looked at: at the first packet of a connection, and of one that something \
has changed for. `classify` judges random peers and ports by one pod's policy set: nanoseconds a \
connection. `pod-change` is one pod of the cluster that comes or goes: three address sets, one of them \
of all pods, from the API's message to the snapshot that workers take at their next burst; every port \
has a policy set of its own that names all three. A packet of a known flow looks at no policy: `policy` \
of the [pipeline](#pipeline) is `ipv4-routed` with and without.";

pub(super) fn section(rows: Option<&[PolicyRow]>) -> Section {
    let mut section = Section::new("Policy", &[METHOD]);
    let Some(rows) = rows else {
        section.push("Not measured in this run.");
        return section;
    };
    let mut table = Table::new(&[
        "case",
        "#rules",
        "#addresses",
        "#isolated ports",
        "time",
        "budget",
        "remarks",
    ]);
    for row in rows {
        let is_change = row.case == "pod-change";
        let Figures { median, .. } = row.nanoseconds;
        let (time, budget) = if is_change {
            let text = format!("≤ {CHANGE_MAX} ms");
            let time = format!("{} ms", spread(scaled(row.nanoseconds, 1e-6), 2));
            (time, goal(&text, median <= CHANGE_MAX * 1e6))
        } else {
            let text = format!("≤ {CLASSIFY_MAX} ns");
            (format!("{} ns", spread(row.nanoseconds, 1)), goal(&text, median <= CLASSIFY_MAX))
        };
        table.push(&[
            row.case.clone(),
            grouped(row.rules),
            grouped(row.addresses),
            grouped(row.ports),
            time,
            budget,
            if row.preemptions > 0 { "preempted".to_owned() } else { String::new() },
        ]);
    }
    section.push(&table.into_text());
    section
}

fn scaled(figures: Figures, factor: f64) -> Figures {
    let Figures { median, min, max } = figures;
    Figures { median: median * factor, min: min * factor, max: max * factor }
}
