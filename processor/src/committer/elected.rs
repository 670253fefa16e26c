//! The candidate of a process for the office of committer, and what it does once it is elected.
//!
//! The consumer group of the control topic elects: whoever is assigned its partition commits what is announced there.
//! The office is never trusted. Somebody who was voted out and has not noticed decides about the same announcements on
//! the same table as the successor, and one of the two finds them done.
//!
//! A thread of its own polls, so that the group does not think this member dead while a commit takes long; a task reads
//! what the thread hears, gathers, commits and answers.

mod candidate;
mod office;

use super::{control_group, control_topic};
use crate::breaker::Breakers;
use bytes::Bytes;
use candidate::Candidate;
use eventlog::{Log, NewRecord};
use lake::Table;
use office::Office;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Polls whose records were not looked at yet.
const HEARD: usize = 8;

/// The way to a candidate.
pub(super) struct Election {
    failure: watch::Receiver<Option<Arc<anyhow::Error>>>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

/// Stands for election until [`Election::leave`].
pub(super) fn stand(
    log: Arc<dyn Log>,
    tables: (Table, Table),
    partitions: u32,
    breakers: Breakers,
) -> std::io::Result<Election> {
    let stop = CancellationToken::new();
    let (heard, hearing) = mpsc::channel(HEARD);
    let (orders, ordered) = std::sync::mpsc::channel();
    let (failed, failure) = watch::channel(None);
    let (topic, group) = (control_topic(tables.0.name()), control_group(tables.0.name()));
    let candidate =
        Candidate { log: Arc::clone(&log), topic: topic.clone(), group, heard, orders: ordered, stop: stop.clone() };
    std::thread::Builder::new().name("committer".into()).spawn(move || candidate.run())?;
    let office = Office::new(log, topic, tables, partitions, breakers, orders, failed);
    Ok(Election { failure, task: tokio::spawn(office.run(hearing)), stop: stop.drop_guard() })
}

impl Election {
    /// Resolves when this process turns out to be unable to write the table for good.
    pub(super) async fn failed(&mut self) -> Arc<anyhow::Error> {
        let failure = self.failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failure {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Finishes the commit under way, if there is one, and gives up the office.
    pub(super) async fn leave(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// A record for the control topic, which has one partition and needs no key.
pub(super) fn record(value: Bytes) -> NewRecord {
    NewRecord { key: Bytes::new(), value, headers: Vec::new() }
}

/// What the thread tells the task.
enum Heard {
    Elected,
    Resigned,
    /// Offsets and values.
    Records(Vec<(i64, Vec<u8>)>),
}

/// What the task tells the thread.
enum Order {
    /// Answers [`Heard::Elected`]: read from the table's position on.
    ReadFrom(Option<i64>),
    /// Let another try, and come back later.
    StepBack,
    /// Leave it to others for good.
    Abstain,
}
