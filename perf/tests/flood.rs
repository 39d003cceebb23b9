//! `vrouter-perf flood` as it is run: a flood costs no established connection.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_flood_over_a_full_table_loses_no_established_connection() {
    let arguments = ["flood", "--connections", "1024", "--json", "-"];
    let output = Command::new(env!("CARGO_BIN_EXE_vrouter-perf")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let cases: Vec<_> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
    assert_eq!(cases, ["half-established", "all-established"]);
    for row in &rows {
        assert_eq!((row["packets"].as_u64(), row["established_lost"].as_u64()), {
            (Some(10_240), Some(0))
        });
        assert_eq!(row["evicted_established"], 0);
    }
    assert_eq!(rows[0]["refused"], 0);
    assert_eq!(rows[1]["refused"], 10_240);
}
