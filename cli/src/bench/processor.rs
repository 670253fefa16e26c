//! `lakehose bench processor`: the processor from the log to committed files, next to a bare loop over the same events.

use super::args;
use super::bare;
use super::figures::{Figures, process_cpu};
use super::filled;
use super::made::{self, Events};
use super::scratch::Scratch;
use crate::config::Config;
use crate::tables;
use anyhow::{Context, bail};
use chrono::Utc;
use eventlog::Log;
use lake::dataset::{Dataset, DatasetSpec};
use lake::state::Keep;
use lake::{DataFile, Lake, Table, schema};
use processor::Progress;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Fills a log, runs the processor over it until everything is in the table, and prints what that took.
pub async fn run(args: &args::Processor, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let columns = if args.columns { made::columns() } else { Vec::new() };
    let declared = columns.len();
    let spec = DatasetSpec { columns, ..DatasetSpec::default() };
    let scratch = Scratch::new(config, args.place.directory.as_deref(), spec)?;
    let dataset = &scratch.dataset;
    let mut figures = Figures::new(format!(
        "processor, {} events of {} bytes, {declared} columns declared, {}",
        args.events,
        mean_size(),
        scratch.log,
    ));
    let processing = config.processor(1, true);

    let first = Utc::now();
    let events = || Events::from(first);
    let (count, flush_above) = (args.events, processing.flush_above());
    let of_bare = (dataset.clone(), events());
    let bare = tokio::task::spawn_blocking(move || bare::run(of_bare.1, count, &of_bare.0, flush_above)).await??;

    let log = filled::fill(&scratch, events(), count).await?;
    filled::settle().await;
    let read = filled::read(Arc::clone(&log), &dataset.name, count).await?;
    filled::settle().await;
    let lake = tables::open_lake(&scratch.config).await?;
    let took = process(Arc::clone(&log), &lake, dataset, processing).await?;
    let files = committed(&lake, dataset).await?;
    log.close().await.context("close the log")?;

    let rows: u64 = files.iter().map(DataFile::rows).sum();
    if rows != count {
        bail!("{rows} rows are in the table, not {count}");
    }
    figures.add_cost("bare: decode", bare.decode, count);
    figures.add_cost("bare: sort", bare.sort, count);
    figures.add_cost("bare: encode", bare.encode, count);
    figures.add_cost("bare: total", bare.total(), count);
    figures.add_cost("log: read only", read, count);
    figures.add_cost("processor: total", took.cpu, count);
    figures.add("bare / processor", bare.total().as_secs_f64() / took.cpu.as_secs_f64(), "(0.6 is to reach)");
    figures.add("processor", count as f64 / took.cpu.as_secs_f64(), "events/s per core");
    figures.add("processor, by the clock", count as f64 / took.wall.as_secs_f64(), "events/s");
    figures.add("files", files.len() as f64, "");
    figures.add("file bytes", files.iter().map(|file| file.size).sum::<u64>() as f64 / count as f64, "bytes/event");
    figures.print(as_json);
    Ok(())
}

fn mean_size() -> usize {
    const SAMPLE: usize = 1_000;
    Events::from(Utc::now()).take(SAMPLE).map(|made| made.json.len()).sum::<usize>() / SAMPLE
}

#[derive(Debug)]
struct Took {
    cpu: Duration,
    wall: Duration,
}

/// Runs the processor from its start to its end, with the log read to its end.
async fn process(log: Arc<dyn Log>, lake: &Lake, dataset: &Dataset, config: processor::Config) -> anyhow::Result<Took> {
    const LONG: Duration = Duration::from_secs(3_600);
    let (progress, shutdown) = (Arc::new(Progress::new(&dataset.name)), CancellationToken::new());
    let config = processor::Config { drain_to_end: true, drain_timeout: LONG, ..config };
    let deps = processor::Deps { log, lake: lake.clone(), dataset: dataset.clone(), progress: Arc::clone(&progress) };
    let (began, cpu) = (Instant::now(), process_cpu());
    let mut running = tokio::spawn(processor::run(config, deps, shutdown.clone()));
    // Stopping reads the log to its end, but only of partitions that are assigned already.
    while progress.partitions() < u64::from(dataset.spec.partitions) && !running.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shutdown.cancel();
    (&mut running).await?.context("run the processor")?;
    Ok(Took { cpu: process_cpu() - cpu, wall: began.elapsed() })
}

async fn committed(lake: &Lake, dataset: &Dataset) -> anyhow::Result<Vec<DataFile>> {
    let table = Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await.context("open the table")?;
    let state = table.load(Keep::Files, &[]).await.context("read the table")?;
    Ok(state.files().values().map(|file| file.as_ref().clone()).collect())
}
