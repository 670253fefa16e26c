//! `lakehose sweep`: takes away now what a compactor would sooner or later, or tells what that is.
//!
//! It may run beside a compactor, for both decide on what the table says. Without `--dry-run` it is what a compactor does
//! once an hour.

use crate::args;
use crate::config::Config;
use crate::failure::with_advice;
use crate::print;
use crate::tables;
use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDate, SecondsFormat};
use compactor::sweep::{ExpiredDate, Mode, Report, Victim, Waiting, Why};
use compactor::worker::Worker;
use indicatif::ProgressBar;
use lake::dataset::{Dataset, dead_replays_table, dead_table};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

pub async fn run(args: &args::Sweep, config: &Config, line: Option<ProgressBar>) -> anyhow::Result<()> {
    let all = config.datasets()?;
    let Some(dataset) = all.iter().find(|dataset| dataset.name == args.dataset) else {
        let of =
            |dataset: &&Dataset| [dead_table, dead_replays_table].iter().any(|of| of(&dataset.name) == args.dataset);
        match all.iter().find(of) {
            Some(Dataset { name, .. }) => bail!("{} is swept with its dataset: lakehose sweep {name}", args.dataset),
            None => bail!(tables::no_dataset(&args.dataset, &all)),
        }
    };
    // Where there is something to sweep, there is a lake.
    let lake = tables::open_existing_lake(config).await?;
    let url = lake.table_url(&dataset.name);
    let deps = compactor::Deps { lake, datasets: vec![dataset.clone()], memory: config.memory.compactor };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Full };
    let swept = sweep_all(compactor::workers(&config.compaction, &deps), mode, line.as_ref()).await;
    line.inspect(ProgressBar::finish_and_clear);
    let reports = swept?;
    if reports.is_empty() {
        bail!("there is no table at {url}: check --lake");
    }
    let lines: Vec<Line> = reports.iter().flat_map(|(table, report)| lines(table, report, mode)).collect();
    print::to_stdout(show(&lines, args.json, &mut BufWriter::new(io::stdout().lock())))?;
    let failed: usize = reports.iter().map(|(_, report)| report.failed).sum();
    if let Some(failure) = reports.iter().find_map(|(_, report)| report.failure.as_ref()) {
        bail!(
            "{failed} of what is due could not be taken away and stays due (the last: {failure}): let the store delete \
             objects (s3:DeleteObject), then run it again"
        );
    }
    Ok(())
}

/// What was done to each table that there is.
async fn sweep_all(
    workers: Vec<Worker>,
    mode: Mode,
    line: Option<&ProgressBar>,
) -> anyhow::Result<Vec<(String, Report)>> {
    let mut reports = Vec::new();
    for mut worker in workers {
        let table = worker.table().to_owned();
        line.inspect(|line| line.set_message(format!("sweeping {table}")));
        let swept = worker.sweep_alone(mode).await.map_err(|err| with_advice(err.into()));
        let report = swept.with_context(|| format!("cannot sweep {table}"))?;
        reports.extend(report.map(|report| (table, report)));
    }
    Ok(reports)
}

/// What becomes of some files of a table, all for the same reason.
struct Line<'a> {
    table: &'a str,
    why: Why,
    what: &'static str,
    files: usize,
    bytes: u64,
    /// Of a date that expires.
    date: Option<(NaiveDate, u64)>,
    /// When the first and the last of it is due.
    due: Option<(String, String)>,
    paths: Vec<&'a str>,
}

fn lines<'a>(table: &'a str, report: &'a Report, mode: Mode) -> Vec<Line<'a>> {
    let (left, deleted) = match mode {
        Mode::DryRun => ("would leave the table", "would be deleted"),
        _ => ("left the table", "deleted"),
    };
    let of_date = |expired: &ExpiredDate| {
        let ExpiredDate { date, files, rows, bytes } = *expired;
        Line { table, why: Why::Expired, what: left, files, bytes, date: Some((date, rows)), due: None, paths: vec![] }
    };
    let mut by_reason: BTreeMap<Why, Vec<&Victim>> = BTreeMap::new();
    for victim in &report.deleted {
        by_reason.entry(victim.why).or_default().push(victim);
    }
    let of_victims = |(why, victims): (Why, Vec<&'a Victim>)| Line {
        table,
        why,
        what: deleted,
        files: victims.len(),
        bytes: victims.iter().filter_map(|victim| victim.bytes).sum(),
        date: None,
        due: None,
        paths: victims.iter().map(|victim| victim.path.as_str()).collect(),
    };
    let of_waiting = |waiting: &Waiting| {
        let Waiting { why, files, bytes, first_ms, last_ms } = *waiting;
        Line {
            table,
            why,
            what: "waits",
            files,
            bytes,
            date: None,
            due: Some((utc(first_ms), utc(last_ms))),
            paths: vec![],
        }
    };
    let expired = report.expired.iter().map(of_date);
    expired.chain(by_reason.into_iter().map(of_victims)).chain(report.waiting.iter().map(of_waiting)).collect()
}

fn utc(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC);
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn show(lines: &[Line<'_>], as_json: bool, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        for line in lines {
            let Line { table, why, what, files, bytes, date, due, paths } = line;
            let (date, rows) = (date.map(|(date, _)| date), date.map(|(_, rows)| rows));
            let (first, last) = (due.as_ref().map(|due| &due.0), due.as_ref().map(|due| &due.1));
            let object = json!({
                "table": table, "why": why.as_str(), "what": what, "files": files, "bytes": bytes, "date": date,
                "rows": rows, "first_due": first, "last_due": last, "paths": paths,
            });
            writeln!(out, "{object}")?;
        }
        return out.flush();
    }
    if lines.is_empty() {
        writeln!(out, "nothing to take away, and nothing waits for it")?;
        return out.flush();
    }
    let width = lines.iter().map(|line| line.table.len()).max().unwrap_or(0).max(5);
    writeln!(out, "{:<width$}  {:<10}  {:<21}  {:>9}  {:>14}", "table", "why", "what", "files", "bytes")?;
    for Line { table, why, what, files, bytes, date, due, .. } in lines {
        write!(out, "{table:<width$}  {:<10}  {what:<21}  {files:>9}  {bytes:>14}", why.as_str())?;
        match (date, due) {
            (Some((date, rows)), _) => writeln!(out, "  {date}, {rows} rows")?,
            (_, Some((first, last))) if first == last => writeln!(out, "  until {first}")?,
            (_, Some((first, last))) => writeln!(out, "  until {first} to {last}")?,
            _ => writeln!(out)?,
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(report: &Report, mode: Mode, as_json: bool) -> String {
        let mut out = Vec::new();
        show(&lines("events", report, mode), as_json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_goes_and_what_waits_stands_in_a_line_each_with_its_reason() {
        let victim = |why, path: &str, bytes| Victim { why, path: path.into(), bytes };
        let hour_ms = |hour: i64| 1_795_305_600_000 + hour * 3_600_000;
        let report = Report {
            expired: vec![ExpiredDate { date: "2026-08-23".parse().unwrap(), files: 2, rows: 7, bytes: 30 }],
            deleted: vec![victim(Why::Log, "_delta_log/a", Some(1)), victim(Why::Removed, "b", None)],
            waiting: vec![Waiting { why: Why::Removed, files: 3, bytes: 9, first_ms: hour_ms(0), last_ms: hour_ms(6) }],
            ..Report::default()
        };
        let words: Vec<Vec<String>> = printed(&report, Mode::DryRun, false)
            .lines()
            .skip(1)
            .map(|line| line.split("  ").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
            .collect();
        let expected = [
            &["events", "expired", "would leave the table", "2", "30", "2026-08-23, 7 rows"][..],
            &["events", "removed", "would be deleted", "1", "0"],
            &["events", "log", "would be deleted", "1", "1"],
            &["events", "removed", "waits", "3", "9", "until 2026-11-22T00:00:00Z to 2026-11-22T06:00:00Z"],
        ];
        assert_eq!(words, expected);
        assert!(printed(&report, Mode::Full, false).contains("left the table"));

        let json = printed(&report, Mode::Full, true);
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["date"], &lines[0]["rows"]), (&"2026-08-23".into(), &7.into()));
        assert_eq!((&lines[2]["what"], &lines[2]["paths"]), (&"deleted".into(), &json!(["_delta_log/a"])));
        assert_eq!(lines[3]["last_due"], "2026-11-22T06:00:00Z");
    }
}
