//! The programs that docs/DEVICES.md shows, as a device runs them: over a line that breaks, to a gateway that is killed.

use crate::support::bad_line::BadLine;
use crate::support::config::Config;
use crate::support::process::{Lakehose, Place};
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The ring of the example in C holds all of them.
const READINGS: usize = 240;

/// A gateway behind a bad line, with its table.
struct Field {
    place: Place,
    up: Lakehose,
    line: BadLine,
}

impl Field {
    fn new(name: &str) -> Field {
        let place = Place::new(Config { columns: "{ n = 'long' }", ..Config::new(name) });
        let up = place.start("up");
        let line = BadLine::to(&up.gateway());
        Field { place, up, line }
    }

    fn url(&self) -> String {
        self.line.instead_of(&self.up.gateway())
    }

    /// Kills the gateway, does something, and brings it back elsewhere.
    fn without_gateway(mut self, meanwhile: impl FnOnce()) -> Field {
        self.up.kill();
        meanwhile();
        self.up = self.place.start("up");
        self.line.go_to(&self.up.gateway());
        self
    }

    /// Each reading is one row.
    #[track_caller]
    fn assert_has_all(self, device: &str) {
        let mut table = Table::new(self.up.table(&self.place.config.dataset));
        self.up.stop();
        let (scan, last) = (table.scan(), READINGS - 1);
        let found = table.duckdb.row(&format!(
            "SELECT count(*) AS rows, count(DISTINCT n) AS readings, min(n) AS first, max(n) AS last,
                    count(DISTINCT id) AS ids, bool_and(device_id = '{device}') AS ours FROM {scan}"
        ));
        assert_eq!(
            found,
            json!({"rows": READINGS, "readings": READINGS, "first": 0, "last": last, "ids": READINGS, "ours": true})
        );
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name)
}

fn readings(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

/// Starts a program that takes readings on its standard input.
fn sensor(mut program: Command) -> Child {
    program.stdin(Stdio::piped()).spawn().unwrap()
}

fn tell(child: &mut Child, readings: &str) {
    child.stdin.as_mut().unwrap().write_all(readings.as_bytes()).unwrap();
}

#[track_caller]
fn ends_well(mut child: Child) {
    drop(child.stdin.take());
    let status = wait_for("the end of the example", PATIENCE, || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn the_example_in_python_loses_and_doubles_nothing_when_gateway_and_device_are_killed() {
    let field = Field::new("python");
    let (url, buffer) = (field.url(), field.place.path().join("buffer.db"));
    let start = || {
        let mut program = Command::new("python3");
        program.arg(example("device.py")).args([&url, "pump-7"]).arg(&buffer);
        sensor(program)
    };
    let mut device = start();
    tell(&mut device, &readings(0, 80));
    let counted = |field: &Field| field.up.metric("lakehose_ingest_events_accepted_total");
    wait_for("the first events", PATIENCE, || (counted(&field) > 0.0).then_some(()));
    let mut device = Some(device);
    let field = field.without_gateway(|| {
        let mut first = device.take().unwrap();
        tell(&mut first, &readings(80, 160));
        // In its buffer when the lines after it are; killed is then the program, not the sensor.
        let lines = || {
            let sql = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                       print(db.execute(\"SELECT count(*) FROM events WHERE event LIKE '%\\\"n\\\": 159}%'\").fetchone()[0])";
            let output = Command::new("python3").args(["-c", sql]).arg(&buffer).output().unwrap();
            (output.stdout == b"1\n").then_some(())
        };
        wait_for("all lines in the buffer", PATIENCE, lines);
        first.kill().unwrap();
        first.wait().unwrap();
        let mut second = start();
        tell(&mut second, &readings(160, READINGS));
        device = Some(second);
    });
    ends_well(device.unwrap());
    field.assert_has_all("pump-7");
}

#[test]
fn the_example_in_c_loses_and_doubles_nothing_when_the_gateway_is_killed() {
    let field = Field::new("in-c");
    let program = field.place.path().join("device");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(example("device.c"));
    assert!(compiler.status().unwrap().success());

    let url = field.url();
    let (address, path) = url.trim_start_matches("http://").split_at(url["http://".len()..].find('/').unwrap());
    let (host, port) = address.split_once(':').unwrap();
    let mut device = Command::new(&program);
    device.args([host, port, path, "valve-3"]);
    let mut device = sensor(device);
    tell(&mut device, &readings(0, 80));
    let counted = |field: &Field| field.up.metric("lakehose_ingest_events_accepted_total");
    wait_for("the first events", PATIENCE, || (counted(&field) > 0.0).then_some(()));
    let field = field.without_gateway(|| tell(&mut device, &readings(80, 180)));
    tell(&mut device, &readings(180, READINGS));
    ends_well(device);
    field.assert_has_all("valve-3");
}

#[test]
fn the_example_with_curl_stores_each_file_once_when_the_gateway_is_killed() {
    let field = Field::new("curl");
    let url = field.url();
    let start = |part: usize| {
        let file = field.place.path().join(format!("part-{part}.ndjson"));
        let event = |n: usize| format!("{{\"id\":\"{n}\",\"device_id\":\"meter-1\",\"data\":{{\"n\":{n}}}}}\n");
        let events: String = (part * 48..(part + 1) * 48).map(event).collect();
        std::fs::write(&file, events).unwrap();
        Command::new(example("post.sh")).arg(&url).arg(&file).stdout(Stdio::null()).spawn().unwrap()
    };
    let starts: Vec<Child> = (0..READINGS / 48).map(start).collect();
    let field = field.without_gateway(|| {});
    for child in starts {
        ends_well(child);
    }
    // A second time, as a cron job might.
    let file = field.place.path().join("part-0.ndjson");
    ends_well(Command::new(example("post.sh")).arg(&url).arg(&file).stdout(Stdio::null()).spawn().unwrap());
    field.assert_has_all("meter-1");
}
