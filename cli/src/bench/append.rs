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
use eventlog::{AppendError, Log, NewRecord, Position};
use lake::dataset::DatasetSpec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Callers that append at the same time, for the log to put their groups together.
const CALLERS: usize = 8;
const GROUP: usize = 1_000;
/// Events a second at which latency is measured.
const RATE: u64 = 50_000;

pub async fn run(args: &args::Log, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let scratch = Scratch::new(config, args.place.directory.as_deref(), DatasetSpec::default())?;
    let took = Duration::from_secs(args.seconds);
    let mut figures = Figures::new(format!("log, {} callers, {}", CALLERS, scratch.log));
    let log = crate::log::open(&scratch.config, std::slice::from_ref(&scratch.dataset)).await?;
    let topic = scratch.dataset.name.as_str();

    let (began, cpu) = (Instant::now(), process_cpu());
    let written = append(&log, topic, began + took).await?;
    let (wall, cpu) = (began.elapsed(), process_cpu() - cpu);
    figures.add("append, groups of 1,000", written as f64 / wall.as_secs_f64(), "events/s, durable");
    figures.add_cost("append, groups of 1,000: CPU", cpu, written);
    filled::settle().await;
    figures.add_cost("read only", filled::read(Arc::clone(&log), topic, written).await?, written);

    let names = [
        (100, ["append of 100 at 50,000/s: p50", "append of 100 at 50,000/s: p99"]),
        (1, ["append of 1 at 50,000/s: p50", "append of 1 at 50,000/s: p99"]),
    ];
    for (group, [p50, p99]) in names {
        let latencies = steady(&log, topic, group, Instant::now() + took).await?;
        figures.add(p50, latencies.milliseconds(0.5), "ms");
        figures.add(p99, latencies.milliseconds(0.99), "ms");
    }
    figures.print(as_json);
    log.close().await.context("close the log")
}

/// As many durable appends as the log takes; returns how many events that were.
async fn append(log: &Arc<dyn Log>, topic: &str, until: Instant) -> anyhow::Result<u64> {
    let written = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (log, written, topic) = (Arc::clone(log), Arc::clone(&written), topic.to_owned());
        let group = records(GROUP);
        callers.spawn(async move {
            while Instant::now() < until {
                let fates = log.append(&topic, group.clone()).await;
                written.fetch_add(count(fates)?, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    finish(callers).await?;
    Ok(written.load(Ordering::Relaxed))
}

/// Appends of `group` events at a steady rate, and how long each took from the moment at which it was due.
async fn steady(log: &Arc<dyn Log>, topic: &str, group: usize, until: Instant) -> anyhow::Result<Latencies> {
    let records = records(group * 64);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut appends = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (began, mut sent) = (Instant::now(), 0);
    while Instant::now() < until {
        tick.tick().await;
        while began.elapsed().as_micros() as u64 * RATE / 1_000_000 >= sent + group as u64 {
            let due = began + Duration::from_micros((sent + group as u64) * 1_000_000 / RATE);
            let at = sent as usize % (group * 63);
            let (log, sender, topic) = (Arc::clone(log), sender.clone(), topic.to_owned());
            let group = records[at..at + group].to_vec();
            sent += group.len() as u64;
            appends.spawn(async move {
                count(log.append(&topic, group).await)?;
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

fn count(fates: Vec<Result<Position, AppendError>>) -> anyhow::Result<u64> {
    let positions = fates.into_iter().collect::<Result<Vec<_>, _>>().context("append to the log")?;
    Ok(positions.len() as u64)
}

fn records(count: usize) -> Vec<NewRecord> {
    let now = Utc::now();
    let received_at = Bytes::from(now.timestamp_micros().to_string());
    Events::from(now).take(count).map(|made| made.into_record(&received_at)).collect()
}
