//! `lakehose bench visible`: how long after its answer an event is in the table.
//!
//! One device posts events one after another; they go to one partition, whose next offset the table tells in every
//! version. A reader of its own looks for new versions, as a query would.

use super::args;
use super::figures::{Figures, Latencies};
use super::scratch::Scratch;
use super::served::Served;
use crate::config::Config;
use crate::tables;
use anyhow::Context;
use eventlog::partition_for;
use lake::dataset::{Dataset, DatasetSpec};
use lake::state::Keep;
use lake::{Lake, Table, TableState, schema};
use processor::Progress;
use processor::committer::app_id;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

const DEVICE: &str = "bench";
const EVENTS_A_SECOND: u64 = 100;
/// How often the reader looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub async fn run(args: &args::Visible, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let config = Config { kafka: Default::default(), ..config.clone() };
    let scratch = Scratch::new(&config, args.place.directory.as_deref(), DatasetSpec::default())?;
    let (config, dataset) = (&scratch.config, &scratch.dataset);
    let flush = humantime::format_duration(config.flush.every);
    let mut figures = Figures::new(format!("visible, {EVENTS_A_SECOND} events a second, flushed every {flush}"));

    let lake = tables::open_lake(config).await?;
    tables::prepare(&lake, std::slice::from_ref(dataset)).await?;
    let log = crate::log::open(config, std::slice::from_ref(dataset)).await?;
    let served = Served::start(Arc::clone(&log), dataset).await?;
    let stop = CancellationToken::new();
    let deps = processor::Deps {
        log: Arc::clone(&log),
        lake: lake.clone(),
        dataset: dataset.clone(),
        progress: Arc::new(Progress::new(&dataset.name)),
    };
    let processing = tokio::spawn(processor::run(config.processor(1, true), deps, stop.clone()));

    let (answered, answers) = mpsc::unbounded_channel();
    let reading = tokio::spawn(look(lake.clone(), dataset.clone(), answers));
    post(&served, dataset, Duration::from_secs(args.seconds), answered).await?;
    let latencies = reading.await??;
    stop.cancel();
    processing.await?.context("run the processor")?;
    served.stop().await?;
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
        figures.add(name, latencies.milliseconds(share), "ms from the answer to the table");
    }
    figures.print(as_json);
    log.close().await.context("close the log")
}

/// Posts events at a steady rate, and tells when each was answered.
async fn post(
    served: &Served,
    dataset: &Dataset,
    duration: Duration,
    answered: UnboundedSender<Instant>,
) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().build().context("set up HTTP")?;
    let url = format!("http://{}/v1/events/{}", served.address, dataset.name);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / EVENTS_A_SECOND as u32);
    let until = Instant::now() + duration;
    while Instant::now() < until {
        tick.tick().await;
        let event = serde_json::json!({ "device_id": DEVICE, "data": { "temp": 21.5 } });
        let response = http.post(&url).json(&event).send().await.context("post an event")?;
        anyhow::ensure!(response.status() == 202, "the gateway answers {}", response.status());
        answered.send(Instant::now())?;
    }
    Ok(())
}

/// Notes for every answered event when the table has it.
async fn look(lake: Lake, dataset: Dataset, mut answers: UnboundedReceiver<Instant>) -> anyhow::Result<Latencies> {
    let partition = app_id(&dataset.name, partition_for(DEVICE.as_bytes(), dataset.spec.partitions));
    let table = Table::open(&lake, &dataset.name, schema::events(&dataset)).await?.context("the table is gone")?;
    let mut state: TableState = table.load(Keep::Txns, std::slice::from_ref(&partition)).await?;
    let (mut latencies, mut waiting, mut seen) = (Latencies::new(), VecDeque::new(), 0);
    loop {
        table.refresh(&mut state).await.context("read the table")?;
        let now = Instant::now();
        while let Ok(answered) = answers.try_recv() {
            waiting.push_back(answered);
        }
        // Offsets of the embedded log have no holes and start at 0.
        let visible = state.txn(&partition).unwrap_or(0);
        while seen < visible {
            // Visible before the answer was noted here.
            let Some(answered) = waiting.pop_front() else { break };
            latencies.add(now.saturating_duration_since(answered));
            seen += 1;
        }
        if answers.is_closed() && answers.is_empty() && waiting.is_empty() {
            return Ok(latencies);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
