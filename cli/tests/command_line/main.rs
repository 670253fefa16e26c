//! What a user sees who gets something wrong: one line that names the thing and what to do, and an exit code.
//!
//! Each test starts the built binary. None needs anything but this machine.

mod keys;
mod tls;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary in an empty directory, with nothing in its environment that could help.
fn lakehose(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakehose"));
    command.args(args).current_dir(directory).env_clear();
    command
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs a command that must fail, and answers its exit code and its only line on stderr.
#[track_caller]
fn complaint(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "one line, not:\n{line}");
    assert!(line.starts_with("lakehose: "), "{line}");
    assert!(output.stdout.is_empty(), "nothing may be promised before it fails");
    let code = output.status.code().unwrap();
    assert_ne!(code, 0);
    (code, line)
}

#[track_caller]
fn assert_says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

/// Runs `lakehose up` on free ports with a configuration file, and with further arguments.
fn up(directory: &Path, file: &str, args: &[&str]) -> Command {
    std::fs::write(directory.join("lakehose.toml"), file).unwrap();
    let mut all = vec!["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    all.extend(args);
    lakehose(directory, &all)
}

#[test]
fn a_wrong_argument_is_told_in_one_line() {
    for (args, words) in [
        (&["up", "--listen", "nowhere"][..], &["nowhere", "--listen", "127.0.0.1:8080"][..]),
        (&["up", "--admin", "1.2.3.4"], &["1.2.3.4", "--admin"]),
        (&["up", "--frobnicate"], &["--frobnicate", "--help"]),
        (&["up", "--log-format", "xml"], &["xml", "auto", "plain", "json"]),
        (&["start"], &["start", "--help"]),
        (&["files"], &["<DATASET>"]),
        (&["files", "events", "--version", "newest"], &["newest", "--version"]),
        (&["delete", "events"], &["--where"]),
        (&["delete", "events", "--where", "id = 'x'", "--where-file", "ids"], &["--where", "--where-file"]),
        (&["delete", "events", "--where", "device_id = 7"], &["--where", "7 is not a text in single quotes", "AND"]),
        (&["delete", "events", "--where", "temp > 3"], &["--where", "temp", "device_id, id or type", "BETWEEN"]),
        (&["compact"], &["<DATASET>"]),
        (&["compact", "events", "--date", "yesterday"], &["yesterday", "--date", "no date such as 2026-11-22"]),
        (&["history", "events", "--limit", "many"], &["many", "--limit"]),
        (&["keys", "create"], &["<NAME>"]),
        (&["keys", "create", "a b"], &["a b", "letters, digits"]),
        (&["keys", "create", "a", "--expires", "soon"], &["soon", "--expires", "90d"]),
        (&["keys", "create", "a", "--expires", "2001-02-03"], &["2001-02-03", "--expires", "passed"]),
        (&["keys", "create", "a", "--device-prefix", ""], &["--device-prefix"]),
        (&["keys", "create", "a", "--device-prefix", "x", "--device", "y"], &["--device-prefix", "--device"]),
        (&["keys", "revoke"], &["<NAME|ID>"]),
        (&["dead", "ls"], &["<DATASET>"]),
        (&["dead", "ls", "events", "--since", "yesterday"], &["yesterday", "--since", "2h"]),
        (&["dead", "ls", "events", "--offset", "5..5"], &["5..5", "--offset", "42..50"]),
        (&["dead", "ls", "events", "--pending", "--replayed"], &["--pending", "--replayed"]),
        (&["dead", "show", "events", "42"], &["42", "3/42"]),
    ] {
        let (code, line) = complaint(lakehose(empty().path(), args));
        assert_eq!(code, 2, "{line}");
        assert_says(&line, words);
    }
    let (code, line) = complaint(lakehose(empty().path(), &["up", "--log", "=,="]));
    assert_eq!(code, 1);
    assert_says(&line, &["=,=", "processor=debug"]);
}

#[test]
fn a_mistake_in_the_file_names_file_line_and_setting() {
    for (file, words) in [
        ("[flush]\nevry = '5s'", ["lakehose.toml line 2", "evry", "`every`"]),
        ("[ingest]\nmax_body = 'big'", ["lakehose.toml line 2", "ingest.max_body", "64MiB"]),
        ("[flush]\nevery = 5", ["lakehose.toml line 2", "flush.every", "5s"]),
        ("[datasets.x]\nsort_by = ['y']", ["`x`", "sort_by", "`y`"]),
        ("[ingest]\nmax_in_flight = '1KiB'", ["[ingest]", "max_in_flight", "twice"]),
        ("this is not toml", ["lakehose.toml line 1", "=", "expected"]),
    ] {
        let (code, line) = complaint(up(empty().path(), file, &[]));
        assert_eq!(code, 1);
        assert_says(&line, &words);
    }
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let (_, line) = complaint(lakehose(empty().path(), &["check", "--config", "other.toml"]));
    assert_says(&line, &["other.toml", "--config"]);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let directory = empty();
    let mut command = up(directory.path(), "", &[]);
    command.env("LAKEHOSE_FLUSH_EVERY", "5x");
    assert_says(&complaint(command).1, &["LAKEHOSE_FLUSH_EVERY", "5x", "\"5s\""]);

    let mut command = up(directory.path(), "", &[]);
    command.env("LAKEHOSE_FLUSH_EVRY", "5s");
    assert_says(&complaint(command).1, &["LAKEHOSE_FLUSH_EVRY", "`every`"]);

    let mut command = lakehose(directory.path(), &["up"]);
    command.env("LAKEHOSE_LISTEN", "nowhere");
    assert_says(&complaint(command).1, &["nowhere", "--listen"]);
}

#[test]
fn listening_beyond_this_machine_without_keys_needs_insecure() {
    let (_, line) = complaint(lakehose(empty().path(), &["up", "--listen", "0.0.0.0:0"]));
    assert_says(&line, &["0.0.0.0:0", "--insecure", "127.0.0.1", "lakehose keys create"]);

    let directory = empty();
    let mut command = lakehose(directory.path(), &["up", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]);
    command.env("LAKEHOSE_INSECURE", "1");
    assert!(Running::start(command).said.contains("POST events to http://127.0.0.1:"));

    let directory = empty();
    assert!(lakehose(directory.path(), &["keys", "create", "a"]).output().unwrap().status.success());
    let mut command = lakehose(directory.path(), &["up", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]);
    command.env("LAKEHOSE_AUTH_KEYS", "keys.toml");
    assert!(Running::start(command).said.contains("POST events to http://127.0.0.1:"));
}

#[test]
fn a_port_in_use_is_named_with_the_option_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--admin"] {
        let other = if option == "--listen" { "--admin" } else { "--listen" };
        let args = ["up", option, &address, other, "127.0.0.1:0"];
        let (_, line) = complaint(lakehose(empty().path(), &args));
        assert_says(&line, &[&address, option, "in use"]);
    }
}

#[test]
fn separate_roles_need_kafka() {
    for role in ["ingest", "processor"] {
        let (_, line) = complaint(lakehose(empty().path(), &[role]));
        assert_says(&line, &[role, "--brokers", "lakehose up"]);
    }
}

#[test]
fn a_broker_that_does_not_answer_is_named() {
    let (_, line) = complaint(up(empty().path(), "", &["--brokers", "127.0.0.1:1"]));
    assert_says(&line, &["Kafka", "127.0.0.1:1", "--brokers"]);
}

#[test]
fn an_option_that_kafka_does_not_know_is_named() {
    let (_, line) = complaint(up(empty().path(), "[kafka]\nbrokers='127.0.0.1:1'\noptions={'no.such'=1}", &[]));
    assert_says(&line, &["Kafka", "no.such"]);
}

#[test]
fn a_bucket_that_does_not_answer_is_named() {
    let directory = empty();
    let mut command = up(directory.path(), "", &["--lake", "s3://bucket/prefix"]);
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    assert_says(&complaint(command).1, &["s3://bucket/prefix", "AWS_ENDPOINT_URL", "refused"]);
}

#[test]
fn a_lake_of_another_scheme_is_refused() {
    for lake in ["gs://bucket/prefix", "http://host/path", "s3://"] {
        let (_, line) = complaint(up(empty().path(), "", &["--lake", lake]));
        assert_says(&line, &[lake, "s3://bucket/prefix", "file:///"]);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = empty();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let (_, line) = complaint(up(directory.path(), "", &["--data", "file/data"]));
    assert_says(&line, &["file/data", "--data"]);
    let (_, line) = complaint(up(directory.path(), "", &["--lake", "file/lake"]));
    assert_says(&line, &["file/lake", "--lake"]);
    let (_, line) = complaint(up(directory.path(), "", &["--data", "file", "--lake", "lake"]));
    assert_says(&line, &["file/log", "--data"]);
}

#[test]
fn a_table_that_is_not_there_is_told_with_those_that_could_be() {
    for command in ["files", "compact", "history"] {
        let directory = empty();
        let (_, line) = complaint(lakehose(directory.path(), &[command, "heartbeats"]));
        assert_says(&line, &["lakehose-data/lake", "--lake"]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "looking makes nothing");
        std::fs::create_dir_all(directory.path().join("lakehose-data/lake")).unwrap();
        let (_, line) = complaint(lakehose(directory.path(), &[command, "heartbeats"]));
        assert_says(&line, &["heartbeats", "events"]);
        let (_, line) = complaint(lakehose(directory.path(), &[command, "events"]));
        assert_says(&line, &["no table at", "lake/events", "--lake"]);
    }
}

#[test]
fn a_table_of_another_program_is_told_to_be_one() {
    let directory = empty();
    let log = directory.path().join("lakehose-data/lake/events/_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    let schema =
        r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"a\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}"#;
    let commit = [
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#.to_owned(),
        format!(
            r#"{{"metaData":{{"id":"0","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":[],"configuration":{{}}}}}}"#
        ),
        r#"{"add":{"path":"a.parquet","partitionValues":{},"size":1,"modificationTime":0,"dataChange":true}}"#
            .to_owned(),
    ];
    std::fs::write(log.join("00000000000000000000.json"), commit.join("\n")).unwrap();
    for args in [&["files", "events"][..], &["compact", "events"], &["sweep", "events"]] {
        assert_says(&complaint(lakehose(directory.path(), args)).1, &["events", "a.parquet", "another program"]);
    }
    let (_, line) = complaint(lakehose(directory.path(), &["delete", "events", "--where", "id = 'x'", "--yes"]));
    assert_says(&line, &["nothing was deleted", "another program"]);
}

#[test]
fn nothing_is_deleted_without_being_asked_for_nor_from_what_is_no_table_of_events() {
    let directory = empty();
    let delete = |args: &[&str]| {
        let args = [&["delete", "--where", "device_id = 'x'"], args].concat();
        complaint(lakehose(directory.path(), &args))
    };
    for (args, words) in [
        (&["events"][..], &["nothing was deleted", "--dry-run", "--yes"][..]),
        (&["events", "--yes"], &["lakehose-data/lake", "--lake"]),
        (&["events__dead", "--yes"], &["events__dead", "lakehose dead export events", "retention"]),
        (&["events__dead_replays", "--dry-run"], &["events__dead_replays", "lakehose dead export events"]),
    ] {
        let (code, line) = delete(args);
        assert_eq!(code, 1, "{line}");
        assert_says(&line, words);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "looking makes nothing");
    std::fs::create_dir_all(directory.path().join("lakehose-data/lake")).unwrap();
    let (_, line) = delete(&["heartbeats", "--yes"]);
    assert_says(&line, &["heartbeats", "events", "--lake"]);
}

#[test]
fn a_condition_may_stand_in_a_file_and_what_is_wrong_with_it_is_told_with_its_name() {
    let directory = empty();
    let write = |condition: &str| std::fs::write(directory.path().join("ids.sql"), condition).unwrap();
    let delete = |file: &str| lakehose(directory.path(), &["delete", "events", "--where-file", file, "--dry-run"]);
    assert_says(&complaint(delete("ids.sql")).1, &["nothing was deleted", "--where-file ids.sql", "No such file"]);
    for (wrong, words) in
        [("id = 7", "7 is not a text in single quotes"), ("", "cannot be read"), ("\n", "cannot be read")]
    {
        write(wrong);
        assert_says(&complaint(delete("ids.sql")).1, &["nothing was deleted", "--where-file ids.sql", words]);
    }
    assert!(Running::start(up(directory.path(), "", &[])).stop().status.success());
    let ids: Vec<String> = (0..100_000).map(|id| format!("'event-{id}'")).collect();
    let many = format!("id IN (\n{}\n)\n", ids.join(",\n"));
    write(&format!("\u{feff}{many}"));
    let output = delete("ids.sql").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "dry run, nothing was deleted; no row of events at version 0 is meant\n");

    let mut child = delete("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(many.as_bytes()).unwrap();
    let mut said_again = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said_again).unwrap();
    assert_eq!((child.wait().unwrap().code(), said_again), (Some(0), said));
}

#[test]
fn a_dataset_without_dead_letters_has_none_and_an_unknown_one_is_told_so() {
    let directory = empty();
    assert!(Running::start(up(directory.path(), "", &[])).stop().status.success());
    for args in [&["ls", "events"][..], &["export", "events"], &["replay", "events"]] {
        let output = lakehose(directory.path(), &[&["dead"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let (code, line) = complaint(lakehose(directory.path(), &["dead", "ls", "evnets"]));
    assert_eq!(code, 1);
    assert_says(&line, &["evnets", "events"]);
    let (_, line) = complaint(lakehose(directory.path(), &["dead", "show", "events", "0/7"]));
    assert_says(&line, &["0/7", "dead ls"]);
    std::fs::remove_dir_all(directory.path().join("lakehose-data/lake/events__dead")).unwrap();
    let output = lakehose(directory.path(), &["dead", "ls", "events"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"no dead letters\n".to_vec()));
}

#[test]
fn a_sweep_tells_what_would_go_and_what_waits_before_it_takes_it_away() {
    let directory = empty();
    let (code, line) = complaint(lakehose(directory.path(), &["sweep", "evnets"]));
    assert_eq!(code, 1);
    assert_says(&line, &["evnets", "events"]);
    for table in ["events__dead", "events__dead_replays"] {
        let (_, line) = complaint(lakehose(directory.path(), &["sweep", table]));
        assert_says(&line, &[table, "lakehose sweep events"]);
    }
    std::fs::create_dir_all(directory.path().join("lakehose-data/lake")).unwrap();
    let (_, line) = complaint(lakehose(directory.path(), &["sweep", "events"]));
    assert_says(&line, &["no table", "lake/events", "--lake"]);

    assert!(Running::start(up(directory.path(), "", &[])).stop().status.success());
    let sweep = |args: &[&str]| {
        let output = lakehose(directory.path(), &[&["sweep", "events"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(sweep(&[]), "nothing to take away, and nothing waits for it\n");
    let date = directory.path().join("lakehose-data/lake/events/date=2026-11-22");
    std::fs::create_dir_all(&date).unwrap();
    let [old, new] = [1, 2].map(|n| format!("seg-00000000-0000-0000-0000-00000000000{n}.parquet"));
    for (name, hours) in [(&old, 25), (&new, 0)] {
        let file = std::fs::File::create(date.join(name)).unwrap();
        (&file).write_all(b"orphan").unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    }
    let dry = sweep(&["--dry-run"]);
    assert_says(&dry, &["orphan", "would be deleted", "waits", "until 2"]);
    let json = sweep(&["--dry-run", "--json"]);
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["what"], &lines[0]["bytes"]), (&"would be deleted".into(), &6.into()));
    assert_eq!(lines[0]["paths"], serde_json::json!([format!("date=2026-11-22/{old}")]));
    assert_eq!((&lines[1]["what"], &lines[1]["files"]), (&"waits".into(), &1.into()));
    assert!(date.join(&old).exists());

    assert_says(&sweep(&[]), &["orphan", "deleted", "waits"]);
    assert!(!date.join(old).exists() && date.join(new).exists());
    assert!(!sweep(&[]).contains("deleted"));
}

#[test]
fn replaying_into_the_log_of_a_running_process_says_what_to_do() {
    let directory = empty();
    let _running = Running::start(up(directory.path(), "", &[]));
    let (code, line) = complaint(lakehose(directory.path(), &["dead", "replay", "events"]));
    assert_eq!(code, 1);
    assert_says(&line, &["lakehose-data/log", "in use", "stop the running `lakehose up`", "--brokers"]);
}

/// A `lakehose up` that runs until dropped.
struct Running {
    child: Child,
    /// What it said on stdout until everything was there.
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // The paragraph of facts ends with an empty line.
        while stdout.read_line(&mut said).unwrap() > 1 {}
        Running { child, said }
    }

    /// What follows `before` in the first line that starts so.
    fn fact(&self, before: &str) -> &str {
        let line = self.said.lines().find_map(|line| line.strip_prefix(before));
        line.unwrap_or_else(|| panic!("no `{before}` in: {}", self.said)).split(' ').next().unwrap()
    }

    fn get(&self, path: &str) -> String {
        let host = self.fact("admin http://");
        let mut stream = TcpStream::connect(host).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn stop(mut self) -> Output {
        self.signal();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Output { status, stdout: Vec::new(), stderr: stderr.into_bytes() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already if it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_running_process_tells_its_addresses_answers_probes_and_ends_when_told() {
    let directory = empty();
    let running = Running::start(up(directory.path(), "", &[]));
    assert!(running.fact("POST events to http://127.0.0.1:").ends_with("/v1/events/events"));
    assert!(running.fact("table events at ").starts_with("file:///"));
    assert!(running.get("/livez").starts_with("HTTP/1.1 200"));
    wait_until("ready", || running.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(running.get("/metrics").contains("process_resident_memory_bytes"));
    let output = running.stop();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_second_signal_does_not_wait_for_a_request_that_is_never_finished() {
    let directory = empty();
    let mut running = Running::start(up(directory.path(), "", &[]));
    let host = running.fact("POST events to http://").split('/').next().unwrap().to_owned();
    let mut request = TcpStream::connect(&host).unwrap();
    write!(request, "POST /v1/events/events HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n").unwrap();
    write!(request, "content-length: 100\r\nexpect: 100-continue\r\n\r\n").unwrap();
    // The gateway asks for the body, so the request is under way.
    let mut answer = [0; 12];
    request.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    running.signal();
    wait_until("not ready while stopping", || running.get("/readyz").contains("stopping"));
    assert!(running.child.try_wait().unwrap().is_none(), "waits for the request");
    running.signal();
    assert_eq!(running.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_second_process_on_the_same_data_is_told_so() {
    let directory = empty();
    let _first = Running::start(up(directory.path(), "", &[]));
    let (_, line) = complaint(up(directory.path(), "", &[]));
    assert_says(&line, &["lakehose-data/log", "in use", "--data"]);
}

#[test]
fn a_table_of_another_schema_is_named_with_what_differs() {
    let directory = empty();
    let first = Running::start(up(directory.path(), "[datasets.events]\ncolumns = { temp = 'double' }", &[]));
    assert!(first.stop().status.success());
    let (_, line) = complaint(up(directory.path(), "[datasets.events]\ncolumns = { temp = 'string' }", &[]));
    assert_says(&line, &["lake/events", "`temp`", "double", "string", "another name"]);
    let output = lakehose(directory.path(), &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8(output.stdout).unwrap(), &["ok    lake", "FAIL  table events", "`temp`"]);
}

#[test]
fn json_lines_are_json_and_nothing_else() {
    let directory = empty();
    let output = Running::start(up(directory.path(), "", &["--log-format", "json"])).stop();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() > 0);
    for line in stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
}
