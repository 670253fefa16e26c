//! `lakehose bench log`: how many events a log makes durable, how long an append takes at a steady rate, and a read.
//!
//! CPU is the whole process, background threads of the log included; Kafka's brokers are not.

use super::args;
use super::figures::{Figures, Latencies, process_cpu};
use super::filled;
use super::made::Events;
use super::scratch::Scratch;
use crate::config::Config;
use anyhow::Context;
use bytes::Bytes;
use chrono::Utc;
use eventlog::{Log, NewRecord};
use lake::dataset::DatasetSpec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Callers that append at the same time, for the log to put their groups together.
const CALLERS: usize = 8;
/// Events a second at which latency is measured.
const RATE: u64 = 50_000;

/// How an append is made.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Each record for itself.
    Plain,
    /// All records or none, as for `?atomic=true`.
    Whole,
}

impl Way {
    async fn append(self, log: &Arc<dyn Log>, topic: &str, records: Vec<NewRecord>) -> anyhow::Result<u64> {
        const APPEND: &str = "append to the log";
        let positions = match self {
            Way::Plain => {
                let fates = log.append(topic, records).await;
                fates.into_iter().collect::<Result<Vec<_>, _>>().context(APPEND)?
            }
            Way::Whole => log.append_whole(topic, records).await.context(APPEND)?,
        };
        Ok(positions.len() as u64)
    }
}

pub async fn run(args: &args::Log, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let scratch = Scratch::new(config, args.place.directory.as_deref(), DatasetSpec::default())?;
    let took = Duration::from_secs(args.seconds);
    let mut figures = Figures::new(format!("log, {} callers, {}", CALLERS, scratch.log));
    let log = crate::log::open(&scratch.config, std::slice::from_ref(&scratch.dataset)).await?;
    let topic = scratch.dataset.name.as_str();

    let mut all = 0;
    for (group, way, rate, cost) in [
        (1_000, Way::Plain, "append, groups of 1,000", "append, groups of 1,000: CPU"),
        (100, Way::Plain, "append, groups of 100", "append, groups of 100: CPU"),
        (100, Way::Whole, "append, groups of 100, all or none", "append, groups of 100, all or none: CPU"),
    ] {
        let (began, cpu) = (Instant::now(), process_cpu());
        let written = append(&log, topic, group, way, began + took).await?;
        let (wall, cpu) = (began.elapsed(), process_cpu() - cpu);
        figures.add(rate, written as f64 / wall.as_secs_f64(), "events/s, durable");
        figures.add_cost(cost, cpu, written);
        all += written;
    }
    filled::settle().await;
    figures.add_cost("read only", filled::read(Arc::clone(&log), topic, all).await?, all);

    let names = [
        (100, Way::Plain, ["append of 100 at 50,000/s: p50", "append of 100 at 50,000/s: p99"]),
        (
            100,
            Way::Whole,
            ["append of 100, all or none, at 50,000/s: p50", "append of 100, all or none, at 50,000/s: p99"],
        ),
        (1, Way::Plain, ["append of 1 at 50,000/s: p50", "append of 1 at 50,000/s: p99"]),
    ];
    for (group, way, [p50, p99]) in names {
        let latencies = steady(&log, topic, group, way, Instant::now() + took).await?;
        figures.add(p50, latencies.milliseconds(0.5), "ms");
        figures.add(p99, latencies.milliseconds(0.99), "ms");
    }
    figures.print(as_json);
    log.close().await.context("close the log")
}

/// As many durable appends as the log takes; returns how many events that were.
async fn append(log: &Arc<dyn Log>, topic: &str, group: usize, way: Way, until: Instant) -> anyhow::Result<u64> {
    let written = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (log, written, topic) = (Arc::clone(log), Arc::clone(&written), topic.to_owned());
        let group = records(group);
        callers.spawn(async move {
            while Instant::now() < until {
                let appended = way.append(&log, &topic, group.clone()).await?;
                written.fetch_add(appended, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    finish(callers).await?;
    Ok(written.load(Ordering::Relaxed))
}

/// Appends of `group` events at a steady rate, and how long each took from the moment at which it was due.
async fn steady(log: &Arc<dyn Log>, topic: &str, group: usize, way: Way, until: Instant) -> anyhow::Result<Latencies> {
    let records = records(group * 64);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut appends = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (began, mut sent) = (Instant::now(), 0);
    while Instant::now() < until {
        tick.tick().await;
        // A machine that cannot keep up must not be held here for ever.
        while Instant::now() < until && began.elapsed().as_micros() as u64 * RATE / 1_000_000 >= sent + group as u64 {
            let due = began + Duration::from_micros((sent + group as u64) * 1_000_000 / RATE);
            let at = sent as usize % (group * 63);
            let (log, sender, topic) = (Arc::clone(log), sender.clone(), topic.to_owned());
            let group = records[at..at + group].to_vec();
            sent += group.len() as u64;
            appends.spawn(async move {
                way.append(&log, &topic, group).await?;
                let _ = sender.send(due.elapsed());
                Ok(())
            });
        }
        while let Some(ended) = appends.try_join_next() {
            ended??;
        }
    }
    drop(sender);
    finish(appends).await?;
    let mut latencies = Latencies::new();
    while let Ok(latency) = receiver.try_recv() {
        latencies.add(latency);
    }
    Ok(latencies)
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn records(count: usize) -> Vec<NewRecord> {
    let now = Utc::now();
    let received_at = Bytes::from(now.timestamp_micros().to_string());
    Events::from(now).take(count).map(|made| made.into_record(&received_at)).collect()
}
