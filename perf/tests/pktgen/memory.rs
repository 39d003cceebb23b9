//! Over a link in memory, whose faults are known.

use serde_json::{Value, json};

use crate::{pktgen, row, rows};

#[test]
fn faults_are_counted_as_what_they_are() {
    let counts = |row: &Value| {
        ["received", "lost", "reordered", "duplicated", "corrupted"]
            .map(|name| row[name].as_u64().unwrap())
    };
    for (fault, expected) in [
        ("drop-every=100", [9900, 100, 0, 0, 0]),
        ("duplicate-every=50", [10_000, 0, 0, 200, 0]),
        // The last of the swapped ones arrives only with a packet after it.
        ("swap-every=3", [10_000, 0, 3333, 0, 0]),
        ("corrupt-every=1000", [9990, 10, 0, 0, 10]),
    ] {
        for frame in ["64", "1518", "imix"] {
            let row = row(&format!("--tx memory,{fault} --packets 10000 --frame {frame}"));
            assert_eq!(counts(&row), expected, "{fault}, {frame}: {row:#}");
        }
    }
}

#[test]
fn without_a_fault_everything_arrives_however_fast() {
    let frames = "--frame rfc2544 --ipv6 --frame rfc2544";
    for row in rows(&format!("--tx memory --packets 20000 {frames} --flows 1000")) {
        assert_eq!((&row["received"], &row["lost"]), (&json!(20_000), &json!(0)), "{row:#}");
    }
}

#[test]
fn a_rate_is_kept_or_its_row_is_marked() {
    let row = row("--tx memory --rate 2000 --seconds 0.5");
    let sent = row["sent_pps"].as_f64().unwrap();
    let is_limited = row["is_generator_limited"].as_bool().unwrap();
    assert!(is_limited || (1980.0..2020.0).contains(&sent), "{row:#}");
    assert!(is_limited || row["sent"] == json!(1000), "{row:#}");
}

#[test]
fn a_search_finds_the_rate_of_a_link_or_marks_the_row() {
    for row in rows("--tx memory,pps=2000 --search --rate 4000 --seconds 0.3 --precision 0.05") {
        let found = row["throughput_pps"].as_f64().unwrap();
        let is_limited = row["is_generator_limited"].as_bool().unwrap();
        // 64 packets pass at once, whatever the rate: 213 a second of so short a trial.
        assert!(found < 2300.0, "{row:#}");
        assert!(is_limited || found > 1850.0, "{row:#}");
    }
}

#[test]
fn more_loss_than_allowed_is_told_by_the_exit_status() {
    let status = |limit: &str| {
        let arguments = "--tx memory,drop-every=10 --packets 1000 --loss-limit";
        pktgen(&format!("{arguments} {limit}")).status.code().unwrap()
    };
    assert_eq!((status("0.05"), status("0.1")), (3, 0));
}
