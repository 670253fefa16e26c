//! `lakehose delete`: rows of a table on request, such as those of a device whose owner asks for it.
//!
//! It says what it would do before it does it, and asks. What it does is one commit or nothing.

use crate::args::Delete;
use crate::config::Config;
use crate::failure::with_advice;
use crate::print::counted;
use crate::shutdown;
use crate::tables;
use anyhow::{Context, bail};
use chrono::{NaiveDate, SecondsFormat, Utc};
use compactor::delete::{DeleteError, Deleted, Deletion, Found, Predicate, Progress, Settings};
use compactor::merge::Budget;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use lake::dataset::{dead_replays_table, dead_table};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use tokio::sync::watch;

pub async fn run(args: &Delete, config: &Config, line: Option<ProgressBar>) -> anyhow::Result<()> {
    refuse_dead_letters(&args.dataset)?;
    let can_ask = io::stdin().is_terminal() && !reads_stdin(args);
    if !args.dry_run && !args.yes && !can_ask {
        bail!("nothing was deleted: there is no terminal to ask on; look at --dry-run first, then give --yes");
    }
    let predicate = predicate(args)?;
    let lake = tables::open_existing_lake(config).await?;
    let table = tables::open_table(config, &lake, &args.dataset).await?;
    let settings =
        Settings { budget: Budget::new(config.memory.compactor), keep_orphans: config.compaction.keep_orphans };
    let nothing = || format!("nothing was deleted from {}", args.dataset);
    let deletion = Deletion::new(table, predicate, settings).await;
    let mut deletion = deletion.with_context(nothing)?;
    let progress = deletion.progress();
    if args.dry_run || !args.yes {
        let found = shown(deletion.find(), progress.clone(), line.clone()).await;
        let found = found.map_err(|err| told(err, &args.dataset))?;
        if args.dry_run || found.rows == 0 {
            say_found(&found, args);
            return Ok(());
        }
        if !is_wanted(&found, args)? {
            bail!("nothing was deleted: the answer was not yes");
        }
    }
    let shutdown = shutdown::on_signal()?;
    let ran = shutdown.run_until_cancelled(shown(deletion.run(), progress, line.clone())).await;
    let Some(deleted) = ran else {
        line.inspect(ProgressBar::finish_and_clear);
        match deletion.is_open() {
            true => bail!("interrupted at the commit, and whether that happened is not known: run it again"),
            false => bail!("nothing was deleted from {}: interrupted", args.dataset),
        }
    };
    let deleted = deleted.map_err(|err| told(err, &args.dataset))?;
    say_deleted(&deleted, args, &config.compaction);
    Ok(())
}

/// The condition, wherever it is written.
fn predicate(args: &Delete) -> anyhow::Result<Predicate> {
    if let Some(predicate) = &args.predicate {
        return Ok(predicate.clone());
    }
    let path = args.where_file.as_deref().context("there is no condition: give --where or --where-file")?;
    let written = if reads_stdin(args) { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    let place = path.display();
    let written = written.with_context(|| format!("nothing was deleted: cannot read --where-file {place}"))?;
    // Some editors begin a file with a mark that is no part of its text.
    let written = written.trim_start_matches('\u{feff}');
    written.parse().with_context(|| format!("nothing was deleted: --where-file {place}"))
}

fn reads_stdin(args: &Delete) -> bool {
    args.where_file.as_deref() == Some(Path::new("-"))
}

/// They are bytes that are no events, and have no device.
fn refuse_dead_letters(name: &str) -> anyhow::Result<()> {
    let dataset = name.rsplit_once("__").map_or(name, |(dataset, _)| dataset);
    if name == dead_table(dataset) || name == dead_replays_table(dataset) {
        bail!(
            "rows of {name} cannot be deleted: dead letters are bytes without a device; `lakehose dead export {dataset}` finds \
             them, and they go when they are older than the dataset's `retention`"
        );
    }
    Ok(())
}

/// Whether anything has happened is what matters most.
fn told(err: DeleteError, dataset: &str) -> anyhow::Error {
    let says_it = err.is_open() || matches!(err, DeleteError::Outrun { .. });
    let err = match err {
        DeleteError::Table(err) => with_advice(err.into()),
        err => err.into(),
    };
    if says_it { err } else { err.context(format!("nothing was deleted from {dataset}")) }
}

/// Waits for the work, and shows how far it is on a terminal.
async fn shown<T>(
    work: impl Future<Output = T>,
    mut progress: watch::Receiver<Progress>,
    line: Option<ProgressBar>,
) -> T {
    let Some(line) = line else { return work.await };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {elapsed}").expect("a template");
    line.set_style(style);
    let draw = async {
        loop {
            let Progress { files, done } = *progress.borrow_and_update();
            line.set_length(files);
            line.set_position(done);
            if progress.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = draw => unreachable!("it draws for ever"),
    };
    line.finish_and_clear();
    done
}

/// Asks on the terminal.
fn is_wanted(found: &Found, args: &Delete) -> anyhow::Result<bool> {
    let (rows, files) = (counted(found.rows, "row"), counted(found.files, "file"));
    eprint!("Delete {rows} in {files} of {} ({})? [y/N] ", args.dataset, dates(&found.dates));
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn say_found(found: &Found, args: &Delete) {
    let Found { version, rows, files, bytes, dates: by_date } = found;
    if args.json {
        let report = json!({"dry_run": args.dry_run, "dataset": args.dataset, "version": version, "rows": rows,
            "files": files, "bytes": bytes, "dates": by_date});
        println!("{report}");
        return;
    }
    let dry_run = if args.dry_run { "dry run, nothing was deleted; " } else { "" };
    if *rows == 0 {
        println!("{dry_run}no row of {} at version {version} is meant", args.dataset);
        return;
    }
    println!(
        "{dry_run}it would be {} in {} ({}) of {} at version {version}:",
        counted(*rows, "row"),
        counted(*files, "file"),
        HumanBytes(*bytes),
        args.dataset
    );
    for (date, rows) in by_date {
        println!("  {date}  {}", HumanCount(*rows));
    }
}

fn say_deleted(deleted: &Deleted, args: &Delete, compaction: &compactor::Config) {
    let stay_until = (Utc::now() + compaction.keep_removed).to_rfc3339_opts(SecondsFormat::Secs, true);
    let Deleted { version, rows, files_in, bytes_in, files_out, bytes_out, files_lost, dates: by_date } = deleted;
    if args.json {
        let mut report = json!({"dry_run": false, "dataset": args.dataset, "version": version, "rows": rows,
            "files_in": files_in, "bytes_in": bytes_in, "files_out": files_out, "bytes_out": bytes_out,
            "files_lost": files_lost, "dates": by_date});
        if *rows > 0 {
            report["files_stay_until"] = stay_until.into();
        }
        println!("{report}");
        return;
    }
    if *rows == 0 {
        println!("nothing to delete: no row of {} at version {version} is meant", args.dataset);
        return;
    }
    println!(
        "{} deleted from {} ({}) in version {version}: {} ({}) replaced by {} ({})",
        counted(*rows, "row"),
        args.dataset,
        dates(by_date),
        counted(*files_in, "file"),
        HumanBytes(*bytes_in),
        HumanCount(*files_out),
        HumanBytes(*bytes_out)
    );
    println!("the replaced files stay until {stay_until} for queries that read them, then a compactor deletes them");
    if *files_lost > 0 {
        println!(
            "files rewritten in vain beside compactors, which delete them when they are {} old: {}",
            humantime::format_duration(compaction.keep_orphans),
            HumanCount(*files_lost)
        );
    }
}

fn dates(by_date: &BTreeMap<NaiveDate, u64>) -> String {
    match (by_date.first_key_value(), by_date.last_key_value()) {
        (Some((first, _)), Some((last, _))) if first != last => {
            format!("{} dates, {first} to {last}", by_date.len())
        }
        (Some((date, _)), _) => date.to_string(),
        _ => "no date".to_owned(),
    }
}
