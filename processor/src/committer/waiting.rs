//! The side of a processor that shares its log: announces what it has uploaded, and waits for the answers.
//!
//! An answer is a courtesy: it can be lost with the committer that owes it, and so can an announcement with the log's
//! last records. Who waits for long asks the table, which knows best: it has the offsets, or has others in their place,
//! or the flush is announced once more. Announcing twice is harmless, for the second does not continue the table.

use super::announcement::{Announcement, Answer, ControlRecord};
use super::elected::{self, Election};
use super::{Request, Verdict, app_id, control_topic, load_txns};
use crate::breaker::Breakers;
use crate::chain::{Decision, decide};
use crate::metrics;
use anyhow::Context;
use eventlog::{AppendError, Log, LogError, NewRecord, Tail};
use lake::{OffsetRange, Table};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

/// How long the control topic keeps its records. Whoever still waits then announces anew.
const RETAIN: Duration = Duration::from_secs(24 * 3600);

/// A flush waits so long for its answer before the table is asked, twice as long the next time, and at most so long.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_AFTER_AT_MOST: Duration = Duration::from_secs(60);

/// Answers that were read and not yet looked at.
const ANSWERS: usize = 64;

/// Longest wait of a poll: how late the thread may notice that nobody waits any more.
const POLL_FOR: Duration = Duration::from_millis(100);
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Makes the control topic, stands for election, and starts to wait.
pub(super) async fn start(
    log: Arc<dyn Log>,
    (events, dead): (Table, Table),
    partitions: u32,
    breakers: Breakers,
    queue: mpsc::Receiver<Request>,
) -> anyhow::Result<JoinHandle<()>> {
    let topic = control_topic(events.name());
    let shared = log.shared().context("processes do not share this log")?;
    shared.ensure_control_topic(&topic, RETAIN).await.context("prepare the control topic")?;
    // Open before anything is announced, so that no answer comes too early.
    let (opened_log, opened_topic) = (Arc::clone(&log), topic.clone());
    let tail = tokio::task::spawn_blocking(move || open(&*opened_log, &opened_topic)).await??;
    let (heard, answers) = mpsc::channel(ANSWERS);
    let (tailed_log, tailed_topic) = (Arc::clone(&log), topic.clone());
    let thread = std::thread::Builder::new().name("answers".into());
    thread.spawn(move || listen(&*tailed_log, &tailed_topic, tail, &heard))?;
    let election = elected::stand(Arc::clone(&log), (events.clone(), dead), partitions, breakers.clone())?;
    let waiting =
        Waiting { log, topic, events, breakers, processor: Uuid::new_v4(), flushes: HashMap::new(), failure: None };
    Ok(tokio::spawn(waiting.run(queue, answers, election)))
}

struct Waiting {
    log: Arc<dyn Log>,
    topic: String,
    events: Table,
    breakers: Breakers,
    processor: Uuid,
    flushes: HashMap<Uuid, Flush>,
    /// Why this process cannot write the table, once that is known.
    failure: Option<Arc<anyhow::Error>>,
}

/// A flush without an answer.
struct Flush {
    record: NewRecord,
    ranges: Vec<OffsetRange>,
    verdict: oneshot::Sender<Verdict>,
    ask_after: Duration,
    ask_at: Instant,
}

impl Waiting {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Request>,
        mut answers: mpsc::Receiver<Vec<Answer>>,
        mut election: Election,
    ) {
        let mut open = true;
        while open || !self.flushes.is_empty() {
            let ask_at = self.flushes.values().map(|flush| flush.ask_at).min();
            tokio::select! {
                request = queue.recv(), if open => match request {
                    None => open = false,
                    Some(request) => {
                        let mut requests = vec![request];
                        requests.extend(std::iter::from_fn(|| queue.try_recv().ok()));
                        self.take(requests).await;
                    }
                },
                Some(answers) = answers.recv() => self.resolve(&answers),
                () = tokio::time::sleep_until(ask_at.unwrap_or_else(Instant::now)), if ask_at.is_some() => {
                    self.ask_table().await;
                }
                failure = election.failed(), if self.failure.is_none() => self.fail(failure),
            }
        }
        // Another candidate takes over at once.
        election.leave().await;
    }

    async fn take(&mut self, requests: Vec<Request>) {
        let mut ids = Vec::with_capacity(requests.len());
        for (submission, verdict) in requests {
            if let Some(failure) = &self.failure {
                let _ = verdict.send(Verdict::Failed(Arc::clone(failure)));
                continue;
            }
            let ranges = submission.ranges.clone();
            let announcement = Announcement::new(self.processor, submission);
            let id = announcement.id;
            match ControlRecord::Announcement(announcement).to_bytes() {
                Ok(bytes) => {
                    let (record, ask_at) = (elected::record(bytes), Instant::now() + ASK_AFTER);
                    self.flushes.insert(id, Flush { record, ranges, verdict, ask_after: ASK_AFTER, ask_at });
                    ids.push(id);
                }
                Err(err) => {
                    let err = anyhow::Error::from(err).context("announce a flush");
                    let _ = verdict.send(Verdict::Failed(Arc::new(err)));
                }
            }
        }
        self.announce(ids).await;
    }

    /// Appends announcements, in order, until the log has them or refuses them for good.
    async fn announce(&mut self, mut ids: Vec<Uuid>) {
        let mut attempts = self.breakers.announcements();
        while !ids.is_empty() {
            attempts.begin().await;
            ids.retain(|id| self.flushes.contains_key(id));
            let records: Vec<NewRecord> = ids.iter().map(|id| self.flushes[id].record.clone()).collect();
            let fates = self.log.append(&self.topic, records).await;
            let mut again = Vec::new();
            for (id, fate) in ids.into_iter().zip(fates) {
                match fate {
                    Ok(_) => metrics::announced(),
                    Err(err @ (AppendError::TooLarge { .. } | AppendError::Refused(_))) => {
                        let err = anyhow::Error::from(err).context("announce a flush");
                        self.answer(id, Verdict::Failed(Arc::new(err)));
                    }
                    Err(err) => again.push((id, err)),
                }
            }
            match again.first() {
                None => attempts.succeeded(),
                Some((_, err)) => attempts.failed_for_now(&anyhow::anyhow!("announce a flush: {err}")),
            }
            ids = again.into_iter().map(|(id, _)| id).collect();
        }
    }

    fn resolve(&mut self, answers: &[Answer]) {
        for answer in answers {
            self.answer(answer.id, if answer.committed { Verdict::Committed } else { Verdict::Rejected });
        }
    }

    fn answer(&mut self, id: Uuid, verdict: Verdict) {
        // Most answers are meant for others.
        if let Some(flush) = self.flushes.remove(&id) {
            let _ = flush.verdict.send(verdict);
        }
    }

    /// Looks into the table for flushes that have waited for long.
    async fn ask_table(&mut self) {
        self.flushes.retain(|_, flush| !flush.verdict.is_closed());
        let now = Instant::now();
        let overdue = self.flushes.iter_mut().filter(|(_, flush)| flush.ask_at <= now);
        let mut asked: Vec<(Uuid, Vec<OffsetRange>)> = Vec::new();
        for (id, flush) in overdue {
            flush.ask_after = (flush.ask_after * 2).min(ASK_AFTER_AT_MOST);
            flush.ask_at = now + flush.ask_after;
            asked.push((*id, flush.ranges.clone()));
        }
        if asked.is_empty() {
            return;
        }
        let partitions = asked.iter().flat_map(|(_, ranges)| ranges).map(|range| &range.partition);
        let state = match load_txns(&self.events, partitions).await {
            Ok(state) => state,
            Err(err) => {
                let error = format!("{:#}", anyhow::Error::from(err));
                warn!(error, flushes = asked.len(), "flushes wait for their commit, and the table cannot be read");
                return;
            }
        };
        let mut unknown = Vec::new();
        for (id, ranges) in asked {
            let next =
                |range: &OffsetRange| Some((range.partition, state.txn(&app_id(self.events.name(), range.partition))?));
            let txns: HashMap<i32, i64> = ranges.iter().filter_map(next).collect();
            match decide(&txns, &[&ranges])[0] {
                Decision::Done => self.answer(id, Verdict::Committed),
                Decision::Reject => self.answer(id, Verdict::Rejected),
                Decision::Accept | Decision::Hold => unknown.push((ranges.first().copied(), id)),
            }
        }
        if !unknown.is_empty() {
            warn!(flushes = unknown.len(), "flushes wait for their commit, announcing them again");
            // In the order of their offsets, so that none has to be held for another.
            unknown.sort();
            metrics::announced_again(unknown.len());
            self.announce(unknown.into_iter().map(|(_, id)| id).collect()).await;
        }
    }

    fn fail(&mut self, failure: Arc<anyhow::Error>) {
        for (_, flush) in self.flushes.drain() {
            let _ = flush.verdict.send(Verdict::Failed(Arc::clone(&failure)));
        }
        self.failure = Some(failure);
    }
}

fn open(log: &dyn Log, topic: &str) -> Result<Box<dyn Tail>, LogError> {
    let unshared = || LogError::Fatal { what: "read answers", reason: "processes do not share this log".into() };
    log.shared().ok_or_else(unshared)?.tail(topic)
}

/// Passes on every answer in the topic until nobody listens.
fn listen(log: &dyn Log, topic: &str, mut tail: Box<dyn Tail>, heard: &mpsc::Sender<Vec<Answer>>) {
    while !heard.is_closed() {
        let mut answers = Vec::new();
        let polled = tail.poll(POLL_FOR, &mut |record| {
            // The committer counts and reports what cannot be read.
            if let Ok(ControlRecord::Answers(some)) = ControlRecord::parse(record.value.unwrap_or_default()) {
                answers.extend(some);
            }
        });
        if !answers.is_empty() {
            debug!(answers = answers.len(), "answers read");
            let _ = heard.blocking_send(answers);
        }
        if let Err(err) = polled {
            warn!(error = %err, "answers cannot be read, trying again");
            std::thread::sleep(OPEN_AGAIN);
            // Answers missed meanwhile are found in the table.
            if let Ok(fresh) = open(log, topic) {
                tail = fresh;
            }
        }
    }
}
