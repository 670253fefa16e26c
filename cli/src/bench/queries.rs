//! `lakehose bench queries`: how long DuckDB takes to answer before and after compaction, on tables of many fragments.

use super::args;
use super::compaction;
use super::figures::Figures;
use super::fragments::{self, Shape};
use super::made;
use super::peers::ask;
use super::scratch::Scratch;
use crate::config::Config;
use crate::tables;
use anyhow::{Context, ensure};
use chrono::Days;
use lake::dataset::DatasetSpec;
use serde::Deserialize;
use std::path::Path;
use tokio::process::Command;

/// Days that the rows of a table are of.
const DAYS: u64 = 10;

/// How long a query took, and what came of it.
#[derive(Debug, Deserialize)]
struct Asked {
    query: String,
    milliseconds: f64,
    answer: String,
}

/// For each number of fragments: makes a table, asks, compacts it, asks again.
pub async fn run(args: &args::Queries, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let config = Config { lake: None, kafka: Default::default(), ..config.clone() };
    let mut figures = Figures::new(format!("DuckDB's queries, fragments of {} rows, {DAYS} dates", args.rows));
    for &fragments in &args.fragments {
        let spec = DatasetSpec { columns: made::columns(), ..DatasetSpec::default() };
        let scratch = Scratch::new(&config, args.place.directory.as_deref(), spec)?;
        let (config, dataset) = (&scratch.config, &scratch.dataset);
        let shape = Shape { fragments, rows: args.rows, days: DAYS };
        let made = fragments::make(&tables::open_lake(config).await?, dataset, shape).await?;
        let lake = config.data.join("lake");
        let table = lake.join(&dataset.name);
        let before = queries(&args.peers, &table, shape).await?;
        let took = compaction::start(&lake, &dataset.name, config.memory.compactor).await.context("compact")?;
        ensure!(took.rows == shape.rows(), "{} rows are left of {}", took.rows, shape.rows());
        let after = queries(&args.peers, &table, shape).await?;
        for (before, after) in before.into_iter().zip(after) {
            let query = &before.query;
            ensure!(before.answer == after.answer, "{query}: another answer after compaction");
            figures.add(format!("{fragments} fragments, {query}: before"), before.milliseconds, "ms");
            figures.add(format!("{fragments} fragments, {query}: after"), after.milliseconds, "ms");
        }
        figures.add(format!("{fragments} fragments: files before"), made.len() as f64, "");
        figures.add(format!("{fragments} fragments: files after"), took.files as f64, "");
        figures.add(format!("{fragments} fragments: compaction"), took.cpu_seconds, "s CPU");
        figures.add(format!("{fragments} fragments: memory at most"), took.memory_peak as f64 / 1e6, "MB");
    }
    figures.print(as_json);
    Ok(())
}

/// Asks about a day in the middle, and about an event of it.
async fn queries(program: &Path, table: &Path, shape: Shape) -> anyhow::Result<Vec<Asked>> {
    let date = fragments::first_date() + Days::new(DAYS / 2);
    let event = shape.events().nth((shape.rows() / DAYS * (DAYS / 2) + 1) as usize).context("no events")?;
    let mut command = Command::new(program);
    command.arg("queries").arg(table).args(["--date", &date.to_string()]);
    command.args(["--device", &event.device_id, "--id", &event.id]);
    ask(&mut command).await
}
