//! The office of committer: gathers what is announced, commits it about once a second, and answers.

use super::{Heard, Order, record};
use crate::breaker::Breakers;
use crate::committer::Verdict;
use crate::committer::announcement::{Answer, ControlRecord};
use crate::committer::deciding::Deciding;
use crate::metrics;
use anyhow::Context;
use eventlog::Log;
use lake::Table;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

/// Least time between two commits: every one costs all readers of the table a request.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// After a quiet time others may announce at about the same time.
const GATHER_FOR: Duration = Duration::from_millis(50);
/// How often it is looked after announcements that wait for one before them.
const LOOK_AFTER_HELD: Duration = Duration::from_millis(200);
/// Announcements that one commit takes at most, in bytes.
const GATHER_BYTES: usize = 8 * 1024 * 1024;
/// A committer that cannot reach the table for so long lets another try.
const LEAVE_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Office {
    log: Arc<dyn Log>,
    topic: String,
    events: Table,
    dead: Table,
    partitions: u32,
    breakers: Breakers,
    orders: std::sync::mpsc::Sender<Order>,
    failed: watch::Sender<Option<Arc<anyhow::Error>>>,
    /// What is announced in this term of office; nothing while another is elected.
    term: Option<Deciding<Uuid>>,
    fresh: Option<Fresh>,
    last_commit: Option<Instant>,
    last_look: Instant,
}

/// Announcements since the last commit.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    since: Instant,
    bytes: usize,
}

impl Office {
    pub(super) fn new(
        log: Arc<dyn Log>,
        topic: String,
        (events, dead): (Table, Table),
        partitions: u32,
        breakers: Breakers,
        orders: std::sync::mpsc::Sender<Order>,
        failed: watch::Sender<Option<Arc<anyhow::Error>>>,
    ) -> Office {
        let (term, fresh, last_commit, last_look) = (None, None, None, Instant::now());
        Office { log, topic, events, dead, partitions, breakers, orders, failed, term, fresh, last_commit, last_look }
    }

    pub(super) async fn run(mut self, mut hearing: mpsc::Receiver<Heard>) {
        loop {
            let due = self.due();
            let is_full = self.fresh.is_some_and(|fresh| fresh.bytes >= GATHER_BYTES);
            let heard = tokio::select! {
                heard = hearing.recv(), if !is_full => heard,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.commit().await;
                    continue;
                }
            };
            match heard {
                None => break,
                Some(Heard::Elected) => self.begin_term().await,
                Some(Heard::Resigned) => {
                    self.end_term();
                }
                Some(Heard::Records(records)) => self.take(records),
            }
        }
        if let Some(term) = self.end_term() {
            term.finish().await;
        }
    }

    /// When to commit, or to look after what is held.
    fn due(&self) -> Option<Instant> {
        let term = self.term.as_ref()?;
        match self.fresh {
            Some(fresh) => {
                let gathered = fresh.since + GATHER_FOR;
                Some(self.last_commit.map_or(gathered, |last| gathered.max(last + COMMIT_EVERY)))
            }
            None => (term.held() > 0).then_some(self.last_look + LOOK_AFTER_HELD),
        }
    }

    async fn begin_term(&mut self) {
        self.end_term();
        let load = load(&self.events, &self.dead, self.partitions, &self.breakers);
        let term = match tokio::time::timeout(LEAVE_AFTER, load).await {
            Ok(Ok(term)) => term,
            Ok(Err(err)) => return self.fail(Arc::new(err)),
            Err(_) => return self.step_back(),
        };
        info!(topic = self.topic, position = term.position(), "elected to commit what is announced");
        metrics::is_committer(self.events.name(), true);
        let _ = self.orders.send(Order::ReadFrom(term.position()));
        self.term = Some(term);
    }

    /// What is held is left to the next: the table's position is before it.
    fn end_term(&mut self) -> Option<Deciding<Uuid>> {
        self.fresh = None;
        let term = self.term.take()?;
        info!(topic = self.topic, held = term.held(), "not the committer any more");
        metrics::is_committer(self.events.name(), false);
        metrics::announcements_held(self.events.name(), 0);
        Some(term)
    }

    fn take(&mut self, records: Vec<(i64, Vec<u8>)>) {
        let Some(term) = &mut self.term else { return };
        for (offset, value) in records {
            match ControlRecord::parse(&value) {
                Ok(ControlRecord::Announcement(announcement)) => {
                    let fresh = self.fresh.get_or_insert(Fresh { since: Instant::now(), bytes: 0 });
                    fresh.bytes += value.len();
                    let (id, processor) = (announcement.id, announcement.processor);
                    debug!(offset, %id, %processor, "announced");
                    term.hold_announced(announcement.into_submission(), id, offset);
                }
                Ok(ControlRecord::Answers(_)) => {}
                Err(err) => {
                    metrics::announcement_unreadable();
                    let error = format!("{:#}", anyhow::Error::from(err));
                    warn!(error, offset, topic = self.topic, "record skipped");
                }
            }
            term.has_read_up_to(offset + 1);
        }
        metrics::announcements_held(self.events.name(), term.held());
    }

    async fn commit(&mut self) {
        let Some(term) = &mut self.term else { return };
        self.last_look = Instant::now();
        if self.fresh.take().is_some() {
            self.last_commit = Some(self.last_look);
        }
        let Ok(decided) = tokio::time::timeout(LEAVE_AFTER, term.commit_held()).await else {
            warn!(topic = self.topic, "the table cannot be reached, another process may try");
            return self.step_back();
        };
        metrics::announcements_held(self.events.name(), term.held());
        let mut answers = Vec::with_capacity(decided.len());
        for (id, verdict) in decided {
            match verdict {
                Verdict::Committed => answers.push(Answer { id, committed: true }),
                Verdict::Rejected => answers.push(Answer { id, committed: false }),
                // Of this process alone: another may have the rights, or the version, that this one lacks.
                Verdict::Failed(err) => return self.fail(err),
            }
        }
        self.answer(answers).await;
    }

    /// One record for all: every processor reads it. If it gets lost, they ask the table.
    async fn answer(&self, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let count = answers.len();
        let bytes = match ControlRecord::Answers(answers).to_bytes() {
            Ok(bytes) => bytes,
            Err(err) => return error!(error = %err, "answers cannot be written"),
        };
        match self.log.append(&self.topic, vec![record(bytes)]).await.pop() {
            Some(Err(err)) => warn!(error = %err, answers = count, "answers are lost, the table will be asked"),
            _ => metrics::answered(count),
        }
    }

    fn step_back(&mut self) {
        self.end_term();
        let _ = self.orders.send(Order::StepBack);
    }

    fn fail(&mut self, err: Arc<anyhow::Error>) {
        error!(error = format!("{err:#}"), topic = self.topic, "this process cannot write the table");
        self.failed.send_replace(Some(err));
        self.end_term();
        let _ = self.orders.send(Order::Abstain);
    }
}

/// Reads the tables until they answer, or cannot.
async fn load(events: &Table, dead: &Table, partitions: u32, breakers: &Breakers) -> anyhow::Result<Deciding<Uuid>> {
    let load = || async {
        let loaded = Deciding::load(events.clone(), dead.clone(), partitions, breakers.clone()).await;
        loaded.context("read the table")
    };
    breakers.commits().repeat(load).await
}
