//! A log that holds events, before anybody reads it.

use super::figures::process_cpu;
use super::made::Events;
use super::scratch::Scratch;
use crate::log;
use anyhow::{Context, anyhow};
use bytes::Bytes;
use chrono::Utc;
use eventlog::{Input, Log, NewRecord, Position};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one append, and appends under way: about what a busy gateway does.
const GROUP: usize = 1_000;
const APPENDS: usize = 8;

/// Opens the log, and writes the first `count` of the events.
pub async fn fill(scratch: &Scratch, events: Events, count: u64) -> anyhow::Result<Arc<dyn Log>> {
    let dataset = &scratch.dataset;
    let log = log::open(&scratch.config, std::slice::from_ref(dataset)).await?;
    let received_at = Bytes::from(Utc::now().timestamp_micros().to_string());
    let mut records = events.take(count as usize).map(|made| made.into_record(&received_at));
    let groups =
        std::iter::from_fn(|| Some(records.by_ref().take(GROUP).collect::<Vec<_>>()).filter(|g| !g.is_empty()));
    let append = |group: Vec<NewRecord>| {
        let (log, topic) = (Arc::clone(&log), dataset.name.as_str());
        async move { log.append(topic, group).await.into_iter().collect::<Result<Vec<Position>, _>>() }
    };
    let appends = stream::iter(groups).map(append).buffered(APPENDS);
    appends.try_for_each(|_| std::future::ready(Ok(()))).await.context("fill the log")?;
    Ok(log)
}

/// Waits until background work that the filling left is done, for it is not what is measured next.
pub async fn settle() {
    const LOOK: Duration = Duration::from_millis(250);
    let patience = Instant::now() + Duration::from_secs(20);
    while Instant::now() < patience {
        let before = process_cpu();
        tokio::time::sleep(LOOK).await;
        if process_cpu() - before < LOOK / 50 {
            return;
        }
    }
}

/// Reads all of it and does nothing; returns the CPU time of the process.
pub async fn read(log: Arc<dyn Log>, topic: &str, count: u64) -> anyhow::Result<Duration> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let began = process_cpu();
        let mut consumer = log.consumer(&topic, &format!("{topic}-read")).context("read the log")?;
        let mut records = 0;
        let deadline = Instant::now() + Duration::from_secs(300);
        while records < count {
            match consumer.poll(Duration::from_millis(100), &mut |_| ()).context("read the log")? {
                Input::Records(more) => records += more as u64,
                Input::Assigned(partitions) => {
                    let start = |partition| Position { partition, offset: 0 };
                    consumer.assign(&partitions.into_iter().map(start).collect::<Vec<_>>())?;
                }
                _ if Instant::now() > deadline => return Err(anyhow!("the log gave {records} of {count} events")),
                _ => {}
            }
        }
        let took = process_cpu() - began;
        consumer.close()?;
        Ok(took)
    })
    .await?
}
