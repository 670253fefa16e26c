//! The candidate of a process for the office of committer, and what it does once it is elected.
//!
//! The consumer group of the control topic elects: whoever is assigned its partition commits what is announced there.
//! The office is never trusted. Somebody who was voted out and has not noticed decides about the same announcements on
//! the same table as the successor, and one of the two finds them done.
//!
//! A thread of its own polls, so that the group does not think this member dead while a commit takes long; a task reads
//! what the thread hears, gathers, commits and answers.

use super::announcement::{Answer, ControlRecord};
use super::deciding::Deciding;
use super::{Verdict, control_group, control_topic};
use crate::flush::Backoff;
use crate::metrics;
use bytes::Bytes;
use eventlog::{Bounds, Consumer, Input, Log, LogError, NewRecord, Position};
use lake::{Table, TableError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
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
const LEAVE_AFTER: Duration = Duration::from_secs(60);
/// How long it then stays out of the election.
const STAND_AGAIN: Duration = Duration::from_secs(5);

const POLL_FOR: Duration = Duration::from_millis(20);
/// Polls whose records were not looked at yet; while there is little room left, the partition is paused.
const HEARD: usize = 8;
const LITTLE_ROOM: usize = 4;
const BOUNDS_WITHIN: Duration = Duration::from_secs(5);

/// The way to a candidate.
pub(super) struct Election {
    failure: watch::Receiver<Option<Arc<anyhow::Error>>>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

/// Stands for election until [`Election::leave`].
pub(super) fn stand(log: Arc<dyn Log>, events: Table, dead: Table, partitions: u32) -> std::io::Result<Election> {
    let stop = CancellationToken::new();
    let (heard, hearing) = mpsc::channel(HEARD);
    let (orders, ordered) = std::sync::mpsc::channel();
    let (failed, failure) = watch::channel(None);
    let (topic, group) = (control_topic(events.name()), control_group(events.name()));
    let candidate =
        Candidate { log: Arc::clone(&log), topic: topic.clone(), group, heard, orders: ordered, stop: stop.clone() };
    std::thread::Builder::new().name("committer".into()).spawn(move || candidate.run())?;
    let office = Office {
        log,
        topic,
        events,
        dead,
        partitions,
        orders,
        failed,
        term: None,
        fresh: None,
        last_commit: None,
        last_look: Instant::now(),
    };
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

// The thread.

struct Candidate {
    log: Arc<dyn Log>,
    topic: String,
    group: String,
    heard: mpsc::Sender<Heard>,
    orders: std::sync::mpsc::Receiver<Order>,
    stop: CancellationToken,
}

/// How far a candidate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    /// The group has elected this one, which has yet to learn where to read.
    Elected,
    Reading {
        paused: bool,
    },
}

/// What a candidate does after it has left the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    StandAgain,
    Abstain,
}

impl Candidate {
    fn run(self) {
        while !self.is_over() {
            let joined = self.log.shared().map(|shared| shared.candidate(&self.topic, &self.group));
            let served = match joined {
                Some(Ok(consumer)) => self.serve(consumer),
                Some(Err(err)) => Err(err),
                None => return,
            };
            match served {
                Ok(Next::StandAgain) => {}
                Ok(Next::Abstain) => return,
                Err(err) => warn!(error = %err, topic = self.topic, "the control topic cannot be read, trying again"),
            }
            let until = std::time::Instant::now() + STAND_AGAIN;
            while !self.is_over() && std::time::Instant::now() < until {
                std::thread::sleep(POLL_FOR);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.heard.is_closed()
    }

    /// Stands, and reads while it is elected; returns when it has left the group.
    fn serve(&self, mut consumer: Box<dyn Consumer>) -> Result<Next, LogError> {
        let served = self.serve_until_told(&mut *consumer);
        let left = consumer.close();
        self.tell(Heard::Resigned);
        left.and(served)
    }

    fn serve_until_told(&self, consumer: &mut dyn Consumer) -> Result<Next, LogError> {
        let (mut standing, mut wanted) = (Standing::Waiting, None);
        while !self.is_over() {
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::ReadFrom(position) => wanted = Some(position),
                    Order::StepBack => return Ok(Next::StandAgain),
                    Order::Abstain => return Ok(Next::Abstain),
                }
            }
            let step = self.step(consumer, &mut standing, &mut wanted);
            match step {
                Err(err) if err.is_retryable() => {
                    warn!(error = %err, topic = self.topic, "the control topic does not answer, trying again");
                    std::thread::sleep(Duration::from_millis(200));
                }
                step => step?,
            }
        }
        Ok(Next::StandAgain)
    }

    fn step(
        &self,
        consumer: &mut dyn Consumer,
        standing: &mut Standing,
        wanted: &mut Option<Option<i64>>,
    ) -> Result<(), LogError> {
        if let (Standing::Elected, Some(position)) = (*standing, *wanted) {
            let offset = first_to_read(position, consumer.bounds(0, BOUNDS_WITHIN)?);
            consumer.assign(&[Position { partition: 0, offset }])?;
            debug!(offset, topic = self.topic, "reading announcements");
            (*standing, *wanted) = (Standing::Reading { paused: false }, None);
        }
        if let Standing::Reading { paused } = standing {
            let behind = self.heard.capacity() < LITTLE_ROOM;
            match (behind, *paused) {
                (true, false) => consumer.pause(&[0])?,
                (false, true) => consumer.resume(&[0])?,
                _ => {}
            }
            *paused = behind;
        }
        let mut records = Vec::new();
        let input = consumer.poll(POLL_FOR, &mut |record| {
            records.push((record.offset, record.value.unwrap_or_default().to_vec()));
        })?;
        match input {
            Input::Idle => {}
            Input::Records(_) => self.tell(Heard::Records(records)),
            Input::Assigned(_) => {
                // A position that was asked for in an earlier term may be an old one.
                (*standing, *wanted) = (Standing::Elected, None);
                self.tell(Heard::Elected);
            }
            Input::Revoked(partitions) => {
                // What is under way may go on: the table decides between this one and the next.
                *standing = Standing::Waiting;
                consumer.release(&partitions)?;
                self.tell(Heard::Resigned);
            }
            Input::Lost(_) => {
                *standing = Standing::Waiting;
                self.tell(Heard::Resigned);
            }
            Input::OutOfRange(partition) => {
                let offset = consumer.bounds(partition, BOUNDS_WITHIN)?.first;
                consumer.seek(Position { partition, offset })?;
            }
        }
        Ok(())
    }

    fn tell(&self, heard: Heard) {
        // The task may have ended; the thread ends then, too.
        let _ = self.heard.blocking_send(heard);
    }
}

/// The table's position, or the first record that is left: records that were deleted or lost are announced again by
/// whoever waits for them, and so are those of a topic that was made anew.
fn first_to_read(position: Option<i64>, bounds: Bounds) -> i64 {
    position.filter(|position| (bounds.first..=bounds.next).contains(position)).unwrap_or(bounds.first)
}

// The task.

struct Office {
    log: Arc<dyn Log>,
    topic: String,
    events: Table,
    dead: Table,
    partitions: u32,
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
    async fn run(mut self, mut hearing: mpsc::Receiver<Heard>) {
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
        let load = load(&self.events, &self.dead, self.partitions);
        let term = match tokio::time::timeout(LEAVE_AFTER, load).await {
            Ok(Ok(term)) => term,
            Ok(Err(err)) => return self.fail(Arc::new(anyhow::Error::from(err).context("read the table"))),
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
async fn load(events: &Table, dead: &Table, partitions: u32) -> Result<Deciding<Uuid>, TableError> {
    let mut backoff = Backoff::new();
    loop {
        match Deciding::load(events.clone(), dead.clone(), partitions).await {
            Err(err) if err.is_retryable() => {
                warn!(error = format!("{:#}", anyhow::Error::from(err)), "the table cannot be read, trying again");
                backoff.wait().await;
            }
            loaded => return loaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_starts_at_the_position_or_at_what_is_left() {
        let bounds = Bounds { first: 10, next: 20 };
        let cases = [(None, 10), (Some(9), 10), (Some(10), 10), (Some(17), 17), (Some(20), 20), (Some(21), 10)];
        for (position, first) in cases {
            assert_eq!(first_to_read(position, bounds), first, "{position:?}");
        }
    }
}
