//! `lakehose bench gateway`: the gateway over loopback, first over a log that costs nothing, then over the embedded one.

use super::args;
use super::figures::{Figures, process_cpu};
use super::scratch::Scratch;
use super::served::{Clients, Posted, Served};
use crate::config::Config;
use anyhow::Context;
use eventlog::{AppendError, Consumer, Log, LogError, NewRecord, Position};
use futures::FutureExt;
use futures::future::BoxFuture;
use lake::dataset::DatasetSpec;
use std::sync::Arc;
use std::time::Duration;

const CONNECTIONS: usize = 16;
const BATCH: usize = 100;

pub async fn run(args: &args::Gateway, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let config = Config { kafka: Default::default(), ..config.clone() };
    let scratch = Scratch::new(&config, args.place.directory.as_deref(), DatasetSpec::default())?;
    let mut figures = Figures::new(format!("gateway over loopback, {CONNECTIONS} connections"));
    let clients = |served: &Served, batch, rate| Clients {
        address: served.address,
        dataset: scratch.dataset.name.clone(),
        connections: CONNECTIONS,
        batch,
        rate,
        duration: Duration::from_secs(args.seconds),
    };

    let served = Served::start(Arc::new(NoLog), &scratch.dataset).await?;
    for (batch, cost, rate) in [
        (BATCH, "batches of 100: gateway alone", "batches of 100: gateway alone, rate"),
        (1, "single events: gateway alone", "single events: gateway alone, rate"),
    ] {
        let before = served.cpu().await?;
        let posted = clients(&served, batch, None).post().await?;
        let cpu = served.cpu().await? - before;
        figures.add_cost(cost, cpu, posted.events);
        figures.add(rate, posted.events as f64 / cpu.as_secs_f64(), "events/s per core");
    }
    served.stop().await?;

    let log = crate::log::open(&scratch.config, std::slice::from_ref(&scratch.dataset)).await?;
    let served = Served::start(Arc::clone(&log), &scratch.dataset).await?;
    for (batch, cost, rate, p50, p99) in [
        (
            BATCH,
            "batches of 100: gateway and log",
            "batches of 100, by the clock",
            "batches of 100 at half load: p50",
            "batches of 100 at half load: p99",
        ),
        (
            1,
            "single events: gateway and log",
            "single events, by the clock",
            "single events at half load: p50",
            "single events at half load: p99",
        ),
    ] {
        let before = process_cpu();
        let Posted { events, cpu: of_clients, wall, .. } = clients(&served, batch, None).post().await?;
        let most = events as f64 / wall.as_secs_f64();
        figures.add_cost(cost, process_cpu() - before - of_clients, events);
        figures.add(rate, most, "events/s, clients on the same cores");
        let latencies = clients(&served, batch, Some(most / 2.0)).post().await?.latencies;
        figures.add(p50, latencies.milliseconds(0.5), "ms, durable");
        figures.add(p99, latencies.milliseconds(0.99), "ms, durable");
    }
    served.stop().await?;
    figures.print(as_json);
    log.close().await.context("close the log")
}

/// Takes every record and keeps none.
struct NoLog;

impl Log for NoLog {
    fn ensure_topic<'a>(&'a self, _: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        async move { Ok(partitions) }.boxed()
    }

    fn append<'a>(&'a self, _: &'a str, records: Vec<NewRecord>) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        async move { records.iter().map(|_| Ok(Position { partition: 0, offset: 0 })).collect() }.boxed()
    }

    fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal { what: "join", reason: "nothing is kept".into() })
    }

    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async { Ok(()) }.boxed()
    }
}
