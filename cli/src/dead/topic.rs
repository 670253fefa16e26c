//! The topic as the one who replays writes it: the only writer of its kind.

use super::batch::{Batch, HEADER, Landed};
use crate::config::Config;
use crate::log::{self, Place};
use anyhow::{Context, bail};
use eventlog::{Bounds, Exclusive, Log, OwnedRecord, Position, WholeError};
use std::sync::Arc;
use tokio::task::block_in_place;

pub struct Topic {
    log: Arc<dyn Log>,
    name: String,
    writer: Box<dyn Exclusive>,
}

impl Topic {
    /// Opens the topic, shutting out whoever replays into it.
    pub async fn open(config: &Config, name: &str) -> anyhow::Result<Topic> {
        let log = open_log(config).await?;
        let writer = exclusive(&log, name)?;
        Ok(Topic { log, name: name.to_owned(), writer })
    }

    /// Opens it anew, after which it is certain what the writer before has got into it.
    pub fn reopen(&mut self) -> anyhow::Result<()> {
        self.writer = exclusive(&self.log, &self.name)?;
        Ok(())
    }

    /// What each partition holds.
    pub fn bounds(&mut self) -> anyhow::Result<Vec<Bounds>> {
        block_in_place(|| self.writer.bounds()).with_context(|| format!("cannot read the topic {}", self.name))
    }

    /// Appends all of the records or none.
    pub fn append(&mut self, records: Vec<OwnedRecord>) -> Result<Vec<Position>, WholeError> {
        match records.is_empty() {
            true => Ok(Vec::new()),
            false => block_in_place(|| self.writer.append(records)),
        }
    }

    /// The records of the batch that are in the topic from the given positions on.
    pub fn landed(&mut self, batch: &Batch, from: &[Position]) -> anyhow::Result<Landed> {
        let mut landed = Landed::new();
        let mut look = |record: eventlog::Record<'_>| {
            if let Some(place) = record.headers.get(HEADER).and_then(|header| batch.place_in(header)) {
                landed.entry(place).or_insert(Position { partition: record.partition, offset: record.offset });
            }
        };
        let read = block_in_place(|| self.writer.read(from, &mut look));
        read.with_context(|| format!("cannot look through the topic {}", self.name))?;
        Ok(landed)
    }

    /// Ends the log's own work.
    pub async fn close(self) -> anyhow::Result<()> {
        drop(self.writer);
        self.log.close().await.context("close the log")
    }
}

fn exclusive(log: &Arc<dyn Log>, name: &str) -> anyhow::Result<Box<dyn Exclusive>> {
    block_in_place(|| log.exclusive(name)).with_context(|| format!("cannot replay into the topic {name}"))
}

async fn open_log(config: &Config) -> anyhow::Result<Arc<dyn Log>> {
    let place = log::place(config);
    let Place::ThisMachine { directory } = &place else { return log::open(config, &[]).await };
    if !directory.exists() {
        bail!("there is no log in {}: give its directory with --data, or --brokers", directory.display());
    }
    let opened = log::open(config, &[]).await;
    opened
        .context("cannot replay into the log of this machine: stop the running `lakehose up` first, or give --brokers")
}
