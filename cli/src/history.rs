//! `lakehose history`: what was done to a table, version by version, from the table's own log.

use crate::args;
use crate::config::Config;
use crate::print::{self, cut, in_one_line};
use crate::tables;
use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt;
use indicatif::{HumanBytes, HumanCount};
use lake::actions::{Action, CommitInfo};
use lake::file::FileStats;
use lake::state::Keep;
use lake::table::Table;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::time::Duration;

/// Commits are read so many at a time.
const READING: usize = 16;

/// Prints the latest versions, the newest first, as far back as the log goes.
pub async fn run(args: &args::History, config: &Config) -> anyhow::Result<()> {
    let lake = tables::open_existing_lake(config).await?;
    let table = tables::open_table(config, &lake, &args.dataset).await?;
    let state = table.load(Keep::Txns, &[]).await.with_context(|| format!("cannot read {}", args.dataset))?;
    let (entries, is_cut) = read(&table, state.version, args.limit).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    print::to_stdout(show(&entries, is_cut, args.json, &mut out))
}

/// The versions from `latest` down, and whether older ones are gone from the log.
async fn read(table: &Table, latest: u64, limit: usize) -> anyhow::Result<(Vec<Entry>, bool)> {
    let commits = futures::stream::iter((0..=latest).rev().take(limit))
        .map(|version| async move { (version, table.read_commit(version).await) });
    let mut commits = std::pin::pin!(commits.buffered(READING));
    let mut entries = Vec::new();
    while let Some((version, actions)) = commits.next().await {
        match actions.with_context(|| format!("cannot read version {version}"))? {
            Some(actions) => entries.push(Entry::new(version, &actions)),
            None => return Ok((entries, true)),
        }
    }
    Ok((entries, false))
}

/// Facts of a commit that are told already, or better so, or only to programs.
const TOLD: [&str; 10] =
    ["date", "dates", "files", "filesIn", "filesOut", "rows", "bytes", "bytesIn", "bytesOut", "deletion"];

/// Bytes of a fact that people are told, such as of a clause with many values.
const VALUE: usize = 200;

/// One version.
#[derive(Debug, Default)]
struct Entry {
    version: u64,
    info: CommitInfo,
    dates: BTreeSet<String>,
    added: Files,
    removed: Files,
}

#[derive(Debug, Default)]
struct Files {
    files: u64,
    bytes: u64,
    /// The log does not say it of files that were removed.
    rows: u64,
}

impl Entry {
    fn new(version: u64, actions: &[Action]) -> Entry {
        let mut entry = Entry { version, ..Entry::default() };
        let date = |values: &BTreeMap<String, Option<String>>| values.get("date").cloned().flatten();
        for action in actions {
            if let Some(info) = &action.commit_info {
                entry.info = info.clone();
            }
            if let Some(add) = &action.add {
                let stats = add.stats.as_deref().and_then(|stats| serde_json::from_str::<FileStats>(stats).ok());
                entry.added.files += 1;
                entry.added.bytes += add.size;
                entry.added.rows += stats.map_or(0, |stats| stats.rows);
                entry.dates.extend(date(&add.partition_values));
            }
            if let Some(remove) = &action.remove {
                entry.removed.files += 1;
                entry.removed.bytes += remove.size.unwrap_or_default();
                entry.dates.extend(remove.partition_values.as_ref().and_then(date));
            }
        }
        entry
    }

    fn time(&self) -> String {
        let time = DateTime::from_timestamp_millis(self.info.timestamp).unwrap_or_default();
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn has(&self, parameter: &str) -> bool {
        self.info.operation_parameters.contains_key(parameter)
    }

    /// What was done, in a word; Delta's own names are for programs.
    fn word(&self) -> String {
        match self.info.operation.as_str() {
            "STREAMING UPDATE" => "append".to_owned(),
            "OPTIMIZE" => "merge".to_owned(),
            "CREATE TABLE" => "create".to_owned(),
            "WRITE" if self.has("columns") => "columns".to_owned(),
            "DELETE" if self.has("retentionSeconds") => "expire".to_owned(),
            "" => "unknown".to_owned(),
            other => in_one_line(&other.to_lowercase()),
        }
    }

    fn to_json(&self) -> Value {
        let Entry { version, info, dates, added, removed } = self;
        json!({
            "version": version, "time": self.time(), "operation": self.word(), "delta_operation": info.operation,
            "engine": info.engine_info, "dates": dates, "parameters": info.operation_parameters,
            "added": {"files": added.files, "rows": added.rows, "bytes": added.bytes},
            "removed": {"files": removed.files, "bytes": removed.bytes},
        })
    }

    /// The facts, for people: the files first, then whatever else the commit says of itself.
    fn facts(&self) -> String {
        let Entry { dates, added, removed, .. } = self;
        let mut facts = Vec::new();
        match dates.len() {
            0 => {}
            1..=2 => facts.push(Vec::from_iter(dates.iter().map(String::as_str)).join(" ")),
            more => facts.push(format!("{more} dates")),
        }
        let (count, bytes) = (|files: &Files| HumanCount(files.files), |files: &Files| HumanBytes(files.bytes));
        match (removed.files, added.files) {
            (0, 0) => {}
            (_, 0) => facts.push(format!("files -{}, bytes -{}", count(removed), bytes(removed))),
            (0, _) => facts.push(format!("files +{}, bytes +{}", count(added), bytes(added))),
            _ => {
                facts.push(format!("files {} -> {}", count(removed), count(added)));
                facts.push(format!("bytes {} -> {}", bytes(removed), bytes(added)));
            }
        }
        if added.files > 0 {
            facts.push(format!("rows {}", HumanCount(added.rows)));
        }
        for (name, value) in &self.info.operation_parameters {
            match (name.as_str(), value) {
                // Rows that left with their files; those of new files are told.
                ("rows", Value::Number(rows)) if added.files == 0 => {
                    facts.push(format!("rows -{}", HumanCount(rows.as_u64().unwrap_or_default())));
                }
                ("rowsDeleted", Value::Number(rows)) => {
                    facts.push(format!("rows deleted {}", HumanCount(rows.as_u64().unwrap_or_default())));
                }
                (name, _) if TOLD.contains(&name) => {}
                ("duplicates", Value::Number(count)) if count.as_u64() == Some(0) => {}
                ("retentionSeconds", Value::Number(seconds)) => {
                    let retention = Duration::from_secs(seconds.as_u64().unwrap_or_default());
                    facts.push(format!("retention {}", humantime::format_duration(retention)));
                }
                ("millis", Value::Number(millis)) => {
                    facts.push(format!("{:.1} s", millis.as_f64().unwrap_or_default() / 1e3));
                }
                ("by", Value::String(by)) => facts.push(format!("by {}", in_one_line(by))),
                (name, Value::String(text)) => {
                    facts.push(format!("{}: {}", in_one_line(name), cut(&in_one_line(text), VALUE)));
                }
                (name, value) => facts.push(format!("{}: {}", in_one_line(name), cut(&value.to_string(), VALUE))),
            }
        }
        facts.join(", ")
    }
}

fn show(entries: &[Entry], is_cut: bool, as_json: bool, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        entries.iter().try_for_each(|entry| writeln!(out, "{}", entry.to_json()))?;
        return out.flush();
    }
    writeln!(out, "{:>8}  {:<24}  {:<8}  {:<16}  facts", "version", "time", "what", "engine")?;
    for entry in entries {
        let (version, time, word) = (entry.version, entry.time(), entry.word());
        let engine = in_one_line(&entry.info.engine_info);
        writeln!(out, "{version:>8}  {time:<24}  {word:<8}  {engine:<16}  {}", entry.facts())?;
    }
    if is_cut {
        writeln!(out, "older versions are gone from the table's log")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::{Change, Lake, Outcome, layout, schema};

    fn entry(lines: &str) -> Entry {
        Entry::new(7, &lake::actions::from_lines(lines.as_bytes()).unwrap())
    }

    const MERGE: &str = r#"{"commitInfo":{"timestamp":1000,"operation":"OPTIMIZE","engineInfo":"lakehose/1","operationParameters":{"date":"2026-11-22","filesIn":2,"duplicates":3,"millis":1234,"by":"host/7"}}}
{"remove":{"path":"a","dataChange":false,"size":1000,"partitionValues":{"date":"2026-11-22"}}}
{"remove":{"path":"b","dataChange":false,"size":1048,"partitionValues":{"date":"2026-11-22"}}}
{"add":{"path":"c","partitionValues":{"date":"2026-11-22"},"size":1024,"modificationTime":0,"dataChange":false,"stats":"{\"numRecords\":5000}"}}"#;

    #[test]
    fn a_merge_is_told_in_words() {
        let entry = entry(MERGE);
        assert_eq!((entry.word().as_str(), entry.time().as_str()), ("merge", "1970-01-01T00:00:01.000Z"));
        let facts = "2026-11-22, files 2 -> 1, bytes 2.00 KiB -> 1.00 KiB, rows 5,000, by host/7, duplicates: 3, 1.2 s";
        assert_eq!(entry.facts(), facts);
    }

    #[test]
    fn a_deletion_and_an_expiry_are_told_apart_with_the_rows_that_went() {
        let remove = r#"{"remove":{"path":"a","dataChange":true,"size":2048,"partitionValues":{"date":"2026-11-22"}}}"#;
        let delete = r#"{"commitInfo":{"operation":"DELETE","operationParameters":{"predicate":"id = 'x'","filesIn":1,"filesOut":0,"rowsDeleted":5000,"bytesIn":2048,"bytesOut":0,"millis":100,"by":"host/7","deletion":"0"}}}"#;
        let deleted = entry(&format!("{delete}\n{remove}"));
        let facts = "2026-11-22, files -1, bytes -2.00 KiB, by host/7, 0.1 s, predicate: id = 'x', rows deleted 5,000";
        assert_eq!((deleted.word().as_str(), deleted.facts().as_str()), ("delete", facts));

        let expire = r#"{"commitInfo":{"operation":"DELETE","operationParameters":{"dates":"2026-11-22","files":1,"rows":5000,"bytes":2048,"retentionSeconds":86400,"by":"host/7"}}}"#;
        let expired = entry(&format!("{expire}\n{remove}"));
        let facts = "2026-11-22, files -1, bytes -2.00 KiB, by host/7, retention 1day, rows -5,000";
        assert_eq!((expired.word().as_str(), expired.facts().as_str()), ("expire", facts));

        let many = entry(&delete.replace("'x'", &"x".repeat(10_000)));
        assert!(many.facts().len() < 400 && many.facts().contains("xx… (10005 bytes)"), "{}", many.facts());
    }

    #[test]
    fn a_commit_of_a_stranger_moves_no_cursor() {
        let lines = "{\"commitInfo\":{\"operation\":\"\\u001b[2JX\",\"operationParameters\":{\"p\":\"\\u0007\"}}}";
        let entry = entry(lines);
        assert_eq!((entry.word(), entry.facts()), ("\\u{1b}[2jx".to_owned(), "p: \\u{7}".to_owned()));
        assert_eq!(Entry::new(0, &[]).word(), "unknown");
    }

    #[tokio::test]
    async fn goes_back_as_far_as_the_log_does() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let table = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
        let mut state = table.load(Keep::Txns, &[]).await.unwrap();
        for _ in 1..=5 {
            let change = Change { operation: "STREAMING UPDATE", ..Change::default() };
            assert_eq!(table.commit(&mut state, &change).await.unwrap(), Outcome::Committed);
        }
        let seen = async |limit| {
            let (entries, is_cut) = read(&table, 5, limit).await.unwrap();
            (entries.iter().map(|entry| entry.version).collect::<Vec<_>>(), is_cut)
        };
        assert_eq!(seen(2).await, (vec![5, 4], false));
        assert_eq!(seen(20).await, (vec![5, 4, 3, 2, 1, 0], false));
        for version in 0..=2 {
            std::fs::remove_file(directory.path().join("events__dead").join(layout::commit_path(version))).unwrap();
        }
        assert_eq!(seen(20).await, (vec![5, 4, 3], true));
        let mut out = Vec::new();
        show(&read(&table, 5, 20).await.unwrap().0, true, false, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(
            (out.lines().count(), out.lines().last()),
            (5, Some("older versions are gone from the table's log"))
        );
    }

    #[test]
    fn json_has_what_the_commit_says() {
        let json = entry(MERGE).to_json();
        assert_eq!(json["parameters"]["millis"], 1234);
        assert_eq!((&json["removed"]["bytes"], &json["added"]["rows"]), (&json!(2048), &json!(5000)));
    }
}
