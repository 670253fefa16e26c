//! The benchmarks measure what they say: all rows are still there, and every program that is asked for has its figures.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `lakehose bench`, which must leave nothing behind, and answers what it prints.
fn bench(args: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakehose"));
    command.arg("bench").args(args).arg("--json").arg("--in").arg(directory.path()).current_dir(directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "something is left in the directory");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn figure(measured: &Value, name: &str) -> f64 {
    measured["figures"][name]["value"].as_f64().unwrap_or_else(|| panic!("no figure `{name}` in {measured}"))
}

/// The figures, as JSON and as a page; a gateway of its own is started for them and ends with them.
#[test]
fn simulated_devices_are_all_answered_and_the_page_shows_how_long_they_waited() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let args = ["--devices", "20", "--connections", "60", "--batch", "3", "--seconds", "1", "--loads", "20,50"];
    let measured = bench(&[&["ingest", "--report", page.to_str().unwrap()], &args[..]].concat());
    let names: Vec<&str> = measured["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["most", "20 %", "50 %", "all at once"]);
    for step in measured["steps"].as_array().unwrap() {
        assert_eq!(step["failed"], 0, "{step}");
        let [p50, p999] = ["p50", "p99.9"].map(|quantile| step["latency_ms"][quantile].as_f64().unwrap());
        assert!(p50 > 0.0 && p999 >= p50, "{step}");
    }
    assert_eq!(measured["steps"][3]["requests"], 20);
    let held = &measured["held"];
    assert_eq!((&held["answered_first"], &held["answered_last"]), (&40.into(), &40.into()), "{held}");
    assert!(held["bytes_with"].as_u64().unwrap() > 1_000_000, "{held}");

    let written: Value = serde_json::from_slice(&std::fs::read(page.with_extension("json")).unwrap()).unwrap();
    assert_eq!(written, measured);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("</svg>").count(), 3);
    assert!(page.contains("p99.9") && page.contains("all at once"));
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/bench/peers")
}

#[test]
fn a_compaction_is_measured_without_its_peers_and_says_so() {
    let measured = bench(&["compact", "--rows", "2000", "--fragments", "4", "--runs", "1"]);
    assert_eq!(figure(&measured, "lakehose: files"), 1.0);
    for name in ["bare: total", "lakehose: CPU", "lakehose: rows", "lakehose: bytes", "lakehose: memory at most"] {
        assert!(figure(&measured, name) > 0.0, "{name}");
    }
    assert!(measured["notes"].to_string().contains("--peers infra/bench/peers"), "{measured}");
}

/// Needs Python and what `infra/venv` installs.
#[test]
fn duckdb_and_deltalake_compact_the_same_rows_in_the_same_run() {
    let peers = peers();
    let measured =
        bench(&["compact", "--rows", "2000", "--fragments", "4", "--runs", "2", "--peers", peers.to_str().unwrap()]);
    for name in ["lakehose", "lakehose, an eighth of the memory", "DuckDB", "DuckDB, memory_limit 512MB", "deltalake"] {
        assert!(figure(&measured, &format!("{name}: CPU")) > 0.0, "{name}");
        assert_eq!(figure(&measured, &format!("{name}: files")), 1.0, "{name}");
    }
    assert_eq!(measured["notes"], serde_json::json!([]));
}

/// The measurement itself fails if an answer differs after compaction.
#[test]
fn queries_answer_the_same_before_and_after_compaction() {
    let peers = peers();
    let measured = bench(&["queries", "--fragments", "20", "--rows", "50", "--peers", peers.to_str().unwrap()]);
    assert_eq!(figure(&measured, "20 fragments: files before"), 20.0);
    assert_eq!(figure(&measured, "20 fragments: files after"), 10.0, "one a date");
    for when in ["before", "after"] {
        assert!(figure(&measured, &format!("20 fragments, one id of one date: {when}")) > 0.0);
    }
}
