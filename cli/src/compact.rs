//! `lakehose compact`: merges now what is worth it, as if nobody wrote to the dates any more.
//!
//! Compactors may run beside it: they and this command cost each other work, never rows.

use crate::args;
use crate::config::Config;
use crate::failure::with_advice;
use crate::print::{self, counted};
use crate::shutdown;
use crate::status;
use crate::tables;
use crate::telemetry::Telemetry;
use anyhow::{Context, anyhow, bail};
use chrono::NaiveDate;
use compactor::plan::MergeJob;
use compactor::request::{Request, Step, Sum};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use lake::dataset::dead_table;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TOLD_EVERY: Duration = Duration::from_millis(200);

pub async fn run(args: &args::Compact, config: &Config, telemetry: Telemetry) -> anyhow::Result<()> {
    let mut request = open(args, config).await?;
    if args.dry_run {
        return print::to_stdout(print_plan(&request.plan(), args.json, &mut BufWriter::new(io::stdout().lock())));
    }
    let shutdown = shutdown::on_signal()?;
    let (began, progress) = (Instant::now(), Progress::begin(telemetry));
    let mut done = Done { files_before: request.files(), ..Done::default() };
    let merged = merge_all(&mut request, &mut done, &progress, &shutdown).await;
    progress.end();
    done.files_after = request.files();
    match args.json {
        true => println!("{}", done.to_json(&args.dataset, began.elapsed())),
        false => println!("{}", done.to_sentence(&args.dataset, began.elapsed())),
    }
    merged?;
    match done.failed {
        0 => Ok(()),
        failed => bail!(
            "{} of {} failed, with the files as they were; the log lines above say why",
            counted(failed, "merge"),
            args.dataset
        ),
    }
}

async fn open(args: &args::Compact, config: &Config) -> anyhow::Result<Request> {
    let (lake, datasets) = (tables::open_existing_lake(config).await?, config.datasets()?);
    let name = &args.dataset;
    if !datasets.iter().any(|dataset| dataset.name == *name || dead_table(&dataset.name) == *name) {
        // How its rows are sorted only a declaration says.
        bail!(tables::no_dataset(name, &datasets));
    }
    let deps = compactor::Deps { lake: lake.clone(), datasets, memory: config.memory.compactor };
    let request = Request::open(&config.compaction, &deps, name, args.date).await.map_err(anyhow::Error::from);
    let request = request.map_err(with_advice).with_context(|| format!("cannot read {name}"))?;
    request.ok_or_else(|| anyhow!("there is no table at {} (check --lake)", lake.table_url(name)))
}

/// Merges until nothing is worth it, which is decided anew after each merge.
async fn merge_all(
    request: &mut Request,
    done: &mut Done,
    progress: &Progress,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let jobs = request.plan();
        let left: u64 = jobs.iter().map(rows).sum();
        let Some(job) = jobs.into_iter().next() else { return Ok(()) };
        progress.tell(done, left, job.date);
        let stopped = "merging stopped; what was merged stays, and running it again goes on";
        match request.merge(job, shutdown).await.map_err(anyhow::Error::from).map_err(with_advice).context(stopped)? {
            Step::Merged(sum) => done.sum += sum,
            Step::Lost => done.lost += 1,
            Step::Failed => done.failed += 1,
            Step::Stopped => bail!("interrupted; what was merged stays, and running it again goes on"),
        }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
struct Done {
    files_before: u64,
    files_after: u64,
    sum: Sum,
    lost: u64,
    failed: u64,
}

impl Done {
    fn to_json(&self, table: &str, took: Duration) -> Value {
        let Done { files_before, files_after, sum, lost, failed } = self;
        json!({
            "table": table, "files_before": files_before, "files_after": files_after, "merges": sum.merges,
            "files_in": sum.files_in, "files_out": sum.files_out, "rows": sum.rows, "duplicates": sum.duplicates,
            "bytes_in": sum.bytes_in, "bytes_out": sum.bytes_out, "races_lost": lost, "failed": failed,
            "millis": took.as_millis() as u64,
        })
    }

    fn to_sentence(&self, table: &str, took: Duration) -> String {
        let Done { files_before, files_after, sum, lost, .. } = self;
        let others = match lost {
            0 => String::new(),
            lost => format!(", merges that another compactor was faster with {}", HumanCount(*lost)),
        };
        if sum.merges == 0 {
            return format!("{table}: nothing was merged, files {}{others}", HumanCount(*files_after));
        }
        format!(
            "{table}: files {} -> {}, merges {}, rows {}, duplicates dropped {}, bytes {} -> {}{others}, {:.1} s",
            HumanCount(*files_before),
            HumanCount(*files_after),
            HumanCount(sum.merges),
            HumanCount(sum.rows),
            HumanCount(sum.duplicates),
            HumanBytes(sum.bytes_in),
            HumanBytes(sum.bytes_out),
            took.as_secs_f64()
        )
    }
}

/// How far it is: a bar on a terminal; elsewhere the log has a line for each merge.
struct Progress(Option<Bar>);

/// It goes by the rows that merges have read, as `/metrics` of a compactor has them: a single merge may take minutes.
struct Bar {
    line: ProgressBar,
    metrics: PrometheusHandle,
    moves: JoinHandle<()>,
}

impl Progress {
    fn begin(telemetry: Telemetry) -> Progress {
        // What does not fit into the line is cut: a line that is too long would be drawn again and again.
        let template = "{elapsed}  {bar:20}  {human_pos} of {human_len} rows  {wide_msg}";
        Progress(telemetry.line.map(|line| {
            line.set_style(ProgressStyle::with_template(template).expect("a template"));
            let (moved, metrics) = (line.clone(), telemetry.metrics.clone());
            let moves = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(TOLD_EVERY).await;
                    moved.set_position(rows_read(&metrics));
                }
            });
            Bar { line, metrics: telemetry.metrics, moves }
        }))
    }

    /// `left` rows are to be merged, next those of `date`.
    fn tell(&self, done: &Done, left: u64, date: NaiveDate) {
        if let Some(Bar { line, metrics, .. }) = &self.0 {
            let read = rows_read(metrics);
            line.set_length(read + left);
            line.set_position(read);
            line.set_message(format!("{date}, {} merged", counted(done.sum.files_in, "file")));
        }
    }

    fn end(&self) {
        if let Some(Bar { line, moves, .. }) = &self.0 {
            moves.abort();
            line.finish_and_clear();
        }
    }
}

fn rows_read(metrics: &PrometheusHandle) -> u64 {
    status::sum(&metrics.render(), "lakehose_compactor_rows_read_total").unwrap_or(0)
}

fn print_plan(jobs: &[MergeJob], as_json: bool, out: &mut impl Write) -> io::Result<()> {
    let all = |of: fn(&MergeJob) -> u64| jobs.iter().map(of).sum::<u64>();
    if !as_json && jobs.is_empty() {
        writeln!(out, "dry run, nothing was merged; no merge is worth it")?;
        return out.flush();
    }
    if !as_json {
        writeln!(out, "{:<10}  {:>8}  {:>12}  {:>14}", "date", "files", "rows", "bytes")?;
    }
    for job in jobs {
        let (date, files, rows, bytes) = (job.date, files(job), rows(job), bytes(job));
        match as_json {
            true => writeln!(out, "{}", json!({"date": date, "files": files, "rows": rows, "bytes": bytes}))?,
            false => writeln!(out, "{:<10}  {files:>8}  {rows:>12}  {bytes:>14}", date.to_string())?,
        }
    }
    if !as_json {
        writeln!(out, "{:<10}  {:>8}  {:>12}  {:>14}", "total", all(files), all(rows), all(bytes))?;
        writeln!(
            out,
            "dry run, nothing was merged; each line would be a merge, and what comes of it may be merged again"
        )?;
    }
    out.flush()
}

fn files(job: &MergeJob) -> u64 {
    job.inputs.len() as u64
}

fn rows(job: &MergeJob) -> u64 {
    job.inputs.iter().map(|file| file.rows()).sum()
}

fn bytes(job: &MergeJob) -> u64 {
    job.inputs.iter().map(|file| file.size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[tokio::test]
    async fn the_bar_moves_while_a_merge_is_under_way() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let read = |rows| {
            metrics::with_local_recorder(&recorder, || {
                metrics::counter!("lakehose_compactor_rows_read_total").increment(rows);
            });
        };
        let line = ProgressBar::hidden();
        let progress = Progress::begin(Telemetry { metrics: recorder.handle(), line: Some(line.clone()) });
        let moves_to = async |position| {
            let there = async {
                while line.position() != position {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), there).await.expect("the bar moves");
        };
        progress.tell(&Done::default(), 1_000, "2026-11-22".parse().unwrap());
        assert_eq!((line.position(), line.length()), (0, Some(1_000)));
        read(400);
        moves_to(400).await;
        read(500);
        progress.tell(&Done::default(), 50, "2026-11-22".parse().unwrap());
        assert_eq!((line.position(), line.length()), (900, Some(950)));
        progress.end();
    }

    #[test]
    fn what_was_done_is_one_sentence() {
        let took = Duration::from_millis(2_340);
        let mut done = Done { files_before: 1_204, files_after: 1_204, ..Done::default() };
        assert_eq!(done.to_sentence("events", took), "events: nothing was merged, files 1,204");
        done.lost = 3;
        let lost = "events: nothing was merged, files 1,204, merges that another compactor was faster with 3";
        assert_eq!(done.to_sentence("events", took), lost);
        done.lost = 0;
        let one =
            Sum { merges: 1, files_in: 600, files_out: 1, rows: 90, duplicates: 10, bytes_in: 2_048, bytes_out: 1_024 };
        done.sum += one;
        done.sum += one;
        done.files_after = 6;
        let sentence =
            "events: files 1,204 -> 6, merges 2, rows 180, duplicates dropped 20, bytes 4.00 KiB -> 2.00 KiB, 2.3 s";
        assert_eq!(done.to_sentence("events", took), sentence);
    }
}
