//! `vrouter-perf plot`: from results to a document with charts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plot").join(name)
}

fn plot(folder: &Path, results: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter-perf"));
    command.args(["plot", "--note", "Commit 0123456, on a Monday."]);
    for kind in results {
        command.arg(format!("--{kind}")).arg(fixture(&format!("{kind}.json")));
    }
    command.arg("--plots").arg(folder.join("plots"));
    command.arg("--document").arg(folder.join("benchmarks.md"));
    command.output().unwrap()
}

/// Every file that was written, by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let plots = fs::read_dir(folder.join("plots")).into_iter().flatten().flatten();
    plots
        .map(|entry| entry.path())
        .chain([folder.join("benchmarks.md")])
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let all = ["flowtable", "pipeline", "policy", "compare"];
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&one, &other] {
        let output = plot(folder.path(), &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let files_of_one = files(one.path());
    assert_eq!(files_of_one, files(other.path()));
    insta::assert_snapshot!("benchmarks", files_of_one["benchmarks.md"]);
    insta::assert_snapshot!("compare", files_of_one["compare.svg"]);
    let links = files_of_one["benchmarks.md"].matches("](plots/").count();
    assert_eq!(links, files_of_one.len() - 1, "each chart is shown once");
}

#[test]
fn what_was_not_measured_is_said() {
    let folder = tempfile::tempdir().unwrap();
    assert!(plot(folder.path(), &["pipeline"]).status.success());
    let document = &files(folder.path())["benchmarks.md"];
    assert_eq!(document.matches("Not measured in this run.").count(), 4);
}

#[test]
fn results_that_are_none_are_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter-perf"));
    let output = command.args(["plot", "--pipeline"]).arg(fixture("compare.json")).output();
    let output = output.unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("compare.json does not hold such results"), "{errors}");
    assert!(!plot(folder.path(), &[]).status.success());
}
