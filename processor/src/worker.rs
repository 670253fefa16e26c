//! The processor's loop: polls the log, fills buffers, hands them to flushes, and acts on what became of them.
//!
//! Runs on a thread of its own and never waits for the store: uploads and commits are tasks whose results come back as
//! messages. What bounds memory is that partitions are paused while too much is under way; polling goes on, so the
//! group never thinks this member dead (invariant I7). They are paused as well while a breaker is not closed: what is
//! read then could go nowhere.
//!
//! A partition is *joining* until the table has said where to read on and what was seen before, *reading* after that,
//! *resetting* when a flush of it was rejected, and *releasing* while its last rows are written out before another
//! member may read it.

use crate::breaker::{Attempts, Breakers};
use crate::buffer::{PartitionBuffer, Pushed, Taken};
use crate::committer::{Committer, Verdict};
use crate::config::Config;
use crate::failure::in_one_line;
use crate::flush::{Flushed, Flusher};
use crate::metrics;
use crate::progress::Progress;
use crate::rebuild::Rebuilder;
use crate::window::Window;
use anyhow::{Context, bail};
use eventlog::{Consumer, Input, LogError, Position};
use lake::OffsetRange;
use lake::batch::RowPlan;
use lake::dataset::Dataset;
use lake::table::now_ms;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

/// Longest wait of a poll: how late the loop may notice a finished flush or the time for the next.
const POLL_FOR: Duration = Duration::from_millis(20);
/// Flushes that hold rows at a time: one is encoded while the other is stored.
const MAX_UPLOADING: usize = 2;
/// Flushes under way at a time, those included that only wait for a commit, of which there may be one a second.
const MAX_IN_FLIGHT: usize = 8;
/// How long to ask the log for the bounds of a partition.
const BOUNDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a broker that is in trouble is listened to when asked whether it is back: meanwhile nothing else happens here.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// A partition of which nothing came for so long may have nothing more before its end, which is asked for again then.
const NOTHING_FOR: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How often the group offsets are published again: the process that committed the table may have died before it could,
/// and Kafka forgets what it is told in the middle of a rebalance.
const HINT_EVERY: Duration = Duration::from_secs(5);

/// One member of a dataset's consumer group.
pub struct Worker {
    config: Config,
    topic: String,
    plan: Arc<RowPlan>,
    consumer: Box<dyn Consumer>,
    committer: Committer,
    flusher: Arc<Flusher>,
    progress: Arc<Progress>,
    breakers: Breakers,
    /// Questions to the broker whether it is back, since it failed.
    questions: Option<Attempts>,
    shutdown: CancellationToken,
    partitions: BTreeMap<i32, Owned>,
    joining: BTreeSet<i32>,
    releases: Vec<Release>,
    /// Positions to start from, as they were asked for together, until the log has told its bounds.
    starts: Vec<Vec<Start>>,
    /// Partitions that are reset of which the position is being asked for.
    asked: BTreeSet<i32>,
    /// Ends the rebuilding of windows for an assignment that was taken back: every such rebuilding takes memory.
    joined: Option<DropGuard>,
    dedup: Option<Dedup>,
    in_flight: BTreeMap<u64, InFlight>,
    next_flush: u64,
    last_turn: Option<oneshot::Receiver<()>>,
    paused: bool,
    messages: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    reported: Instant,
    hinted: Instant,
}

/// How repeated events are recognised, if they are.
#[derive(Debug)]
struct Dedup {
    span: Duration,
    rebuilder: Rebuilder,
    /// Ends the rebuilding of windows that nobody will ask.
    ended: DropGuard,
    warned: bool,
}

/// Where to read on, and what was seen before.
#[derive(Debug)]
struct Start {
    partition: i32,
    /// `None` for a partition that the table does not know.
    position: Option<i64>,
    window: Option<Window>,
}

#[derive(Debug)]
struct Owned {
    buffer: PartitionBuffer,
    window: Option<Window>,
    committed: i64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Resetting,
    Releasing,
}

#[derive(Debug)]
struct Release {
    partitions: Vec<i32>,
    until: Instant,
}

#[derive(Debug)]
struct InFlight {
    partitions: Vec<i32>,
    /// Rows in memory; none once they are stored.
    bytes: usize,
    uploaded: bool,
}

#[derive(Debug)]
enum Message {
    /// The rows of this flush are stored.
    Uploaded(u64),
    Flushed(Flushed),
    Starts(anyhow::Result<Vec<Start>>),
}

/// How far stopping has come.
#[derive(Debug)]
enum Phase {
    Running,
    /// Reading what is left in the log, up to where each partition ended when it was first asked.
    Draining {
        until: Instant,
        ends: BTreeMap<i32, End>,
    },
    /// Writing out what is buffered.
    Finishing {
        until: Instant,
    },
}

/// The end of a partition.
#[derive(Debug)]
struct End {
    offset: i64,
    /// How far it was read, and since when.
    read: (i64, Instant),
}

impl Worker {
    pub fn new(
        config: Config,
        dataset: Dataset,
        consumer: Box<dyn Consumer>,
        flusher: Flusher,
        progress: Arc<Progress>,
        shutdown: CancellationToken,
    ) -> Worker {
        let breakers = progress.breakers().clone();
        let span = dataset.spec.dedup_window;
        let dedup = (!span.is_zero()).then(|| Dedup {
            span,
            rebuilder: Rebuilder::new(flusher.table().clone(), span, breakers.clone()),
            ended: CancellationToken::new().drop_guard(),
            warned: false,
        });
        Worker {
            config,
            topic: dataset.name.clone(),
            plan: Arc::new(RowPlan::new(&dataset)),
            consumer,
            committer: flusher.committer().clone(),
            flusher: Arc::new(flusher),
            progress,
            breakers,
            questions: None,
            shutdown,
            partitions: BTreeMap::new(),
            joining: BTreeSet::new(),
            releases: Vec::new(),
            starts: Vec::new(),
            asked: BTreeSet::new(),
            joined: None,
            dedup,
            in_flight: BTreeMap::new(),
            next_flush: 0,
            last_turn: None,
            paused: false,
            messages: mpsc::channel(),
            reported: Instant::now(),
            hinted: Instant::now(),
        }
    }

    /// Runs until shutdown is asked for and what was read is in the table, or until an error that no retry cures.
    pub fn run(mut self, runtime: &Handle) -> anyhow::Result<()> {
        let mut phase = Phase::Running;
        loop {
            self.poll(runtime, !matches!(phase, Phase::Finishing { .. }))?;
            self.take_messages(runtime)?;
            self.question_broker()?;
            self.start_partitions()?;
            self.release_partitions()?;
            self.pause_or_resume()?;
            phase = match phase {
                Phase::Running if self.shutdown.is_cancelled() => {
                    Phase::Draining { until: Instant::now() + self.config.drain_timeout, ends: BTreeMap::new() }
                }
                Phase::Running => {
                    self.flush_if_due(runtime);
                    phase
                }
                Phase::Draining { until, mut ends } => {
                    self.flush_if_due(runtime);
                    if !self.config.drain_to_end || self.caught_up(&mut ends)? || Instant::now() > until {
                        Phase::Finishing { until }
                    } else {
                        Phase::Draining { until, ends }
                    }
                }
                Phase::Finishing { until } => {
                    if self.may_flush() {
                        self.flush(runtime, |_| true);
                    }
                    if self.in_flight.is_empty() && self.buffered_bytes() == 0 {
                        break;
                    }
                    if Instant::now() > until {
                        warn!("stopping before everything is committed; the rest is read again at the next start");
                        break;
                    }
                    phase
                }
            };
            self.report();
            self.repeat_hints();
        }
        self.consumer.close().context("leave the consumer group")
    }

    /// Polls once; records are left alone unless `take_in`, for polling must go on while the last ones are written out.
    fn poll(&mut self, runtime: &Handle, take_in: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        // A record that was received later was so by a clock that is ahead; it must not push the others out.
        let latest = now_ms() * 1_000 + POLL_FOR.as_micros() as i64;
        let mut duplicates = 0;
        let (partitions, topic) = (&mut self.partitions, &self.topic);
        let mut made_id = String::new();
        let input = self.consumer.poll(POLL_FOR, &mut |record| {
            let Some(owned) = partitions.get_mut(&record.partition) else { return };
            if owned.state != State::Reading || !take_in {
                return;
            }
            let Owned { buffer, window, .. } = owned;
            let repeats = |device_id: &str, id: &str, at: i64| {
                window.as_mut().is_some_and(|window| window.repeats(device_id, id, at.min(latest)))
            };
            match buffer.push(topic, &record, &mut made_id, now, repeats) {
                Pushed::Dead(reason) => metrics::record_dead(reason),
                Pushed::Duplicate => duplicates += 1,
                Pushed::Row | Pushed::Repeated => {}
            }
        });
        if duplicates > 0 {
            self.progress.add_duplicates(duplicates);
            metrics::duplicates(&self.topic, duplicates);
        }
        match input {
            Ok(Input::Idle) => {}
            Ok(Input::Records(count)) => metrics::records_read(count),
            Ok(Input::Assigned(partitions)) => self.join(runtime, partitions),
            Ok(Input::Revoked(partitions)) => self.begin_release(runtime, partitions)?,
            Ok(Input::Lost(partitions)) => self.lose(&partitions),
            Ok(Input::OutOfRange(partition)) => self.skip_what_is_gone(partition)?,
            Err(err) => self.broker_failed(err, "poll the log")?,
        }
        Ok(())
    }

    /// Begins to ask the broker whether it is back, unless the error is one that no retry cures. Polling goes on, which
    /// asks nothing of a broker: the log's own client does, with a backoff of its own.
    fn broker_failed(&mut self, err: LogError, what: &'static str) -> anyhow::Result<()> {
        // Once the broker is asked, its answers decide: what a poll says may be old.
        if self.questions.is_none() || !err.is_retryable() {
            let mut questions = self.breakers.questions();
            questions.try_begin();
            questions.failed(anyhow::Error::from(err).context(what))?;
            self.questions = Some(questions);
        }
        std::thread::sleep(POLL_FOR);
        Ok(())
    }

    fn question_broker(&mut self) -> anyhow::Result<()> {
        let Some(questions) = &mut self.questions else { return Ok(()) };
        if questions.try_begin() {
            match self.consumer.bounds(0, BACK_WITHIN) {
                Ok(_) => {
                    questions.succeeded();
                    self.questions = None;
                }
                Err(err) => questions.failed(anyhow::Error::from(err).context("ask the log whether it is back"))?,
            }
        }
        Ok(())
    }

    fn take_messages(&mut self, runtime: &Handle) -> anyhow::Result<()> {
        while let Ok(message) = self.messages.1.try_recv() {
            match message {
                Message::Starts(starts) => {
                    let starts = starts?;
                    self.asked.retain(|partition| !starts.iter().any(|start| start.partition == *partition));
                    self.starts.push(starts);
                }
                Message::Uploaded(id) => {
                    if let Some(flush) = self.in_flight.get_mut(&id) {
                        (flush.bytes, flush.uploaded) = (0, true);
                    }
                }
                Message::Flushed(flushed) => self.flushed(runtime, flushed)?,
            }
        }
        Ok(())
    }

    // Partitions come and go.

    fn join(&mut self, runtime: &Handle, partitions: Vec<i32>) {
        info!(?partitions, "partitions assigned");
        self.joining.extend(&partitions);
        let ended = self.rebuilding();
        // The assignment before has its answer, or is void.
        self.joined = Some(ended.clone().drop_guard());
        self.ask_positions(runtime, partitions, ended);
    }

    /// A token that ends with the worker at the latest.
    fn rebuilding(&self) -> CancellationToken {
        self.dedup.as_ref().map_or_else(CancellationToken::new, |dedup| dedup.ended.token().child_token())
    }

    /// Asks the table where to read on, and reads from it what was seen before.
    fn ask_positions(&mut self, runtime: &Handle, partitions: Vec<i32>, ended: CancellationToken) {
        let limit = self.share_window_memory();
        let (committer, messages) = (self.committer.clone(), self.messages.0.clone());
        let rebuilder = self.dedup.as_ref().map(|dedup| dedup.rebuilder.clone());
        runtime.spawn(async move {
            let asked = async {
                let positions = committer.positions(partitions.clone()).await?;
                // It must be free to end while windows wait for the store.
                drop(committer);
                let positions: Vec<(i32, Option<i64>)> = partitions.into_iter().zip(positions).collect();
                // After the positions, so that every row below them is in the version that is read.
                let mut windows = match rebuilder {
                    None => BTreeMap::new(),
                    Some(rebuilder) => match ended.run_until_cancelled(rebuilder.windows(&positions, limit)).await {
                        Some(windows) => windows?,
                        None => return Ok(Vec::new()),
                    },
                };
                let start = |(partition, position)| Start { partition, position, window: windows.remove(&partition) };
                Ok(positions.into_iter().map(start).collect())
            };
            let _ = messages.send(Message::Starts(asked.await));
        });
    }

    /// Divides the memory for windows among all partitions, also those that are joining; returns what one may take.
    fn share_window_memory(&mut self) -> usize {
        let limit = self.config.window_bytes() / (self.partitions.len() + self.joining.len()).max(1);
        let windows = self.partitions.values_mut().filter_map(|owned| owned.window.as_mut());
        windows.for_each(|window| window.set_limit(limit));
        limit
    }

    /// Starts reading where the table says, as soon as the log has told what it still holds. Partitions that were
    /// assigned together start together: the log takes one answer to an assignment.
    fn start_partitions(&mut self) -> anyhow::Result<()> {
        if self.questions.is_some() {
            return Ok(());
        }
        for mut starts in std::mem::take(&mut self.starts) {
            if let Err(err) = self.start_together(&mut starts)? {
                self.broker_failed(err, "start reading")?;
                self.starts.push(starts);
            }
        }
        Ok(())
    }

    fn start_together(&mut self, starts: &mut [Start]) -> anyhow::Result<Result<(), LogError>> {
        let (mut buffers, mut assign, mut seek) = (Vec::new(), Vec::new(), Vec::new());
        // If not, it was asked for an assignment that was taken back; the answer for the present one is on its way.
        let is_whole = self.joining.iter().all(|joining| starts.iter().any(|start| start.partition == *joining));
        for &mut Start { partition, position, ref mut window } in starts {
            let joining = is_whole && self.joining.contains(&partition);
            let resetting = self.partitions.get(&partition).is_some_and(|owned| owned.state == State::Resetting);
            if !joining && !resetting {
                continue;
            }
            let bounds = match self.consumer.bounds(partition, BOUNDS_WITHIN) {
                Ok(bounds) => bounds,
                Err(err) => return Ok(Err(err)),
            };
            let start = position.unwrap_or(bounds.first);
            self.check_not_ahead(partition, start, bounds.next)?;
            let mut buffer = PartitionBuffer::new(Arc::clone(&self.plan), partition, start);
            let gone = buffer.skip_to(bounds.first, Instant::now());
            let from = Position { partition, offset: buffer.position() };
            if joining {
                assign.push(from)
            } else {
                seek.push(from)
            }
            buffers.push((start, gone, buffer, window));
        }
        let started = match assign.is_empty() {
            true => Ok(()),
            false => self.consumer.assign(&assign),
        };
        if let Err(err) = started.and_then(|()| seek.into_iter().try_for_each(|to| self.consumer.seek(to))) {
            return Ok(Err(err));
        }
        for (start, gone, buffer, window) in buffers {
            let partition = buffer.partition();
            self.count_gone(partition, start, gone);
            if self.paused {
                self.consumer.pause(&[partition]).context("pause a partition")?;
            }
            debug!(partition, offset = buffer.position(), "reading");
            self.joining.remove(&partition);
            let owned = Owned { buffer, window: window.take(), committed: start, state: State::Reading };
            self.partitions.insert(partition, owned);
        }
        self.share_window_memory();
        Ok(Ok(()))
    }

    fn check_not_ahead(&self, partition: i32, start: i64, next: i64) -> anyhow::Result<()> {
        if start <= next {
            return Ok(());
        }
        bail!(
            "the table has read topic {} up to offset {start} of partition {partition}, but the log ends at {next}: the \
             topic was made anew, or this is another log; use the log that belongs to the table, or another --lake",
            self.topic
        )
    }

    fn count_gone(&self, partition: i32, first_gone: i64, gone: i64) {
        if gone > 0 {
            metrics::records_gone(gone);
            error!(partition, first_gone, gone, "the log deleted records before they were read; they are lost");
        }
    }

    fn skip_what_is_gone(&mut self, partition: i32) -> anyhow::Result<()> {
        let bounds = match self.consumer.bounds(partition, BOUNDS_WITHIN) {
            Ok(bounds) => bounds,
            // The log says again that it is out of range.
            Err(err) => return self.broker_failed(err, "ask the log for its bounds"),
        };
        let Some(owned) = self.partitions.get_mut(&partition) else { return Ok(()) };
        let position = owned.buffer.position();
        let gone = owned.buffer.skip_to(bounds.first, Instant::now());
        let offset = owned.buffer.position();
        self.check_not_ahead(partition, position, bounds.next)?;
        self.count_gone(partition, position, gone);
        self.consumer.seek(Position { partition, offset }).context("seek over deleted records")
    }

    fn begin_release(&mut self, runtime: &Handle, partitions: Vec<i32>) -> anyhow::Result<()> {
        info!(?partitions, "partitions revoked");
        self.join_no_more(&partitions);
        let owned: Vec<i32> = partitions.iter().copied().filter(|p| self.partitions.contains_key(p)).collect();
        self.consumer.pause(&owned).context("pause revoked partitions")?;
        self.flush(runtime, |partition| owned.contains(&partition));
        for partition in &owned {
            if let Some(owned) = self.partitions.get_mut(partition) {
                owned.state = State::Releasing;
            }
        }
        self.releases.push(Release { partitions, until: Instant::now() + self.config.release_within });
        Ok(())
    }

    fn release_partitions(&mut self) -> anyhow::Result<()> {
        for release in std::mem::take(&mut self.releases) {
            let busy = self.in_flight.values().any(|f| f.partitions.iter().any(|p| release.partitions.contains(p)));
            if busy && Instant::now() < release.until {
                self.releases.push(release);
                continue;
            }
            if busy {
                warn!(partitions = ?release.partitions, "partitions given up before their last rows were committed");
            }
            self.forget(&release.partitions);
            self.consumer.release(&release.partitions).context("release partitions")?;
        }
        Ok(())
    }

    fn lose(&mut self, partitions: &[i32]) {
        warn!(?partitions, "partitions lost; what was buffered is read again by their next owner");
        self.forget(partitions);
        self.releases.retain(|release| !release.partitions.iter().any(|p| partitions.contains(p)));
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
        self.join_no_more(partitions);
        self.share_window_memory();
    }

    fn join_no_more(&mut self, partitions: &[i32]) {
        self.joining.retain(|partition| !partitions.contains(partition));
        if self.joining.is_empty() {
            self.joined = None;
        }
    }

    // Buffers become flushes.

    fn may_flush(&self) -> bool {
        let uploading = self.in_flight.values().filter(|flush| !flush.uploaded).count();
        uploading < MAX_UPLOADING && self.in_flight.len() < MAX_IN_FLIGHT
    }

    fn flush_if_due(&mut self, runtime: &Handle) {
        if !self.may_flush() || !self.breakers.let_flushes_through() {
            return;
        }
        let oldest = self.partitions.values().filter_map(|owned| owned.buffer.since()).min();
        let is_old = oldest.is_some_and(|since| since.elapsed() >= self.config.flush.every);
        if is_old || self.buffered_bytes() >= self.config.flush_above() {
            self.flush(runtime, |_| true);
        }
    }

    /// Sends what is buffered of the chosen partitions on its way.
    fn flush(&mut self, runtime: &Handle, chosen: impl Fn(i32) -> bool) {
        let reading = self.partitions.iter_mut().filter(|(_, owned)| owned.state == State::Reading);
        let taken: Vec<Taken> =
            reading.filter(|(partition, _)| chosen(**partition)).filter_map(|(_, owned)| owned.buffer.take()).collect();
        if taken.is_empty() {
            return;
        }
        let id = self.next_flush;
        self.next_flush += 1;
        let partitions = taken.iter().map(|taken| taken.range.partition).collect();
        let bytes = taken.iter().map(|taken| taken.bytes).sum();
        self.in_flight.insert(id, InFlight { partitions, bytes, uploaded: false });
        let (done, turn) = oneshot::channel();
        let messages = self.messages.0.clone();
        let uploaded = move || drop(messages.send(Message::Uploaded(id)));
        let flush = Arc::clone(&self.flusher).run(id, taken, self.last_turn.replace(turn), done, uploaded);
        let messages = self.messages.0.clone();
        runtime.spawn(async move {
            let _ = messages.send(Message::Flushed(flush.await));
        });
    }

    fn flushed(&mut self, runtime: &Handle, flushed: Flushed) -> anyhow::Result<()> {
        self.in_flight.remove(&flushed.id);
        match flushed.verdict {
            Verdict::Committed => self.committed(&flushed.ranges, flushed.rows),
            Verdict::Rejected => {
                for range in &flushed.ranges {
                    if let Some(owned) = self.partitions.get_mut(&range.partition)
                        && owned.state == State::Reading
                    {
                        owned.state = State::Resetting;
                        owned.buffer.take();
                        // It knows rows that are not in the table.
                        owned.window = None;
                    }
                }
            }
            Verdict::Failed(err) => bail!(in_one_line(&err)),
        }
        self.resume_from_table(runtime);
        Ok(())
    }

    fn committed(&mut self, ranges: &[OffsetRange], rows: u64) {
        self.progress.add_committed(rows);
        let mut hints = Vec::new();
        for range in ranges {
            if let Some(owned) = self.partitions.get_mut(&range.partition) {
                owned.committed = owned.committed.max(range.end);
                hints.push(Position { partition: range.partition, offset: range.end });
            }
        }
        self.hint(&hints);
    }

    fn hint(&mut self, hints: &[Position]) {
        if let Err(err) = self.consumer.commit_hint(hints) {
            // Only lag tools see it, and the next hint repairs it.
            debug!(error = %err, "group offsets were not published");
        }
    }

    /// Says again how far the table is, so that a hint that got lost is missed for a while and not until the next event.
    fn repeat_hints(&mut self) {
        if self.hinted.elapsed() < HINT_EVERY {
            return;
        }
        self.hinted = Instant::now();
        let ours = self.partitions.iter().filter(|(_, owned)| owned.state == State::Reading);
        let hints: Vec<Position> =
            ours.map(|(partition, owned)| Position { partition: *partition, offset: owned.committed }).collect();
        self.hint(&hints);
    }

    /// Asks where to read on, for partitions of which a flush was rejected, once none of theirs is under way.
    fn resume_from_table(&mut self, runtime: &Handle) {
        let busy: BTreeSet<i32> = self.in_flight.values().flat_map(|flush| flush.partitions.iter().copied()).collect();
        let waiting: BTreeSet<i32> = self.starts.iter().flatten().map(|start| start.partition).collect();
        let resetting = self.partitions.iter().filter(|(_, owned)| owned.state == State::Resetting);
        let ready: Vec<i32> = resetting
            .map(|(p, _)| *p)
            .filter(|p| ![&busy, &waiting, &self.asked].iter().any(|s| s.contains(p)))
            .collect();
        if !ready.is_empty() {
            self.asked.extend(&ready);
            let ended = self.rebuilding();
            self.ask_positions(runtime, ready, ended);
        }
    }

    // Memory, progress.

    fn buffered_bytes(&self) -> usize {
        self.partitions.values().map(|owned| owned.buffer.bytes()).sum()
    }

    fn held_bytes(&self) -> usize {
        self.buffered_bytes() + self.in_flight.values().map(|flush| flush.bytes).sum::<usize>()
    }

    fn pause_or_resume(&mut self) -> anyhow::Result<()> {
        let (held, limit, closed) = (self.held_bytes(), self.config.pause_above(), self.breakers.are_closed());
        let reading: Vec<i32> =
            self.partitions.iter().filter(|(_, o)| o.state != State::Releasing).map(|(p, _)| *p).collect();
        if !self.paused && (held >= limit || !closed) {
            self.consumer.pause(&reading).context("pause partitions")?;
            self.paused = true;
        } else if self.paused && held < limit / 4 * 3 && closed {
            self.consumer.resume(&reading).context("resume partitions")?;
            self.paused = false;
        }
        self.progress.set_paused(self.paused);
        Ok(())
    }

    /// Whether everything that was in the log when stopping began is read. The log is asked once for each partition: a
    /// broker may answer only when the fetches before have waited for records in vain. But ends of transactions may lie
    /// before the end, and the log counts them as read only when it has passed them.
    fn caught_up(&mut self, ends: &mut BTreeMap<i32, End>) -> anyhow::Result<bool> {
        let unsettled = !self.joining.is_empty() || self.questions.is_some();
        if unsettled || self.partitions.values().any(|owned| owned.state == State::Resetting) {
            return Ok(false);
        }
        for (partition, owned) in &self.partitions {
            let position = owned.buffer.position();
            let known = ends.get_mut(partition).map(|end| {
                if end.read.0 != position {
                    end.read = (position, Instant::now());
                }
                (end.offset, end.read.1.elapsed() > NOTHING_FOR)
            });
            let end = match known {
                Some((end, is_quiet)) if position >= end || !is_quiet => end,
                asked => match self.consumer.bounds(*partition, BOUNDS_WITHIN) {
                    Ok(bounds) => asked.map_or(bounds.next, |(end, _)| end.min(bounds.next)),
                    Err(err) => return self.broker_failed(err, "ask the log for its end").map(|()| false),
                },
            };
            if known.is_none_or(|(_, is_quiet)| is_quiet) {
                ends.insert(*partition, End { offset: end, read: (position, Instant::now()) });
            }
            if position < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn report(&mut self) {
        if self.reported.elapsed() < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        let lag_of = |(partition, owned): (&i32, &Owned)| {
            let end = self.consumer.end_offset(*partition).unwrap_or(owned.buffer.position());
            (end - owned.committed).max(0)
        };
        let lag = self.partitions.iter().map(lag_of).sum();
        let held = self.held_bytes();
        self.progress.set(lag, self.partitions.len(), held);
        metrics::holding(&self.topic, lag, held, self.partitions.len(), self.paused);
        self.report_window();
    }

    fn report_window(&mut self) {
        let Some(dedup) = &mut self.dedup else { return };
        let windows = self.partitions.values().filter_map(|owned| owned.window.as_ref());
        let reach = windows.map(Window::reaches_back).min().unwrap_or(dedup.span);
        self.progress.set_dedup_reach(reach);
        metrics::dedup_window(&self.topic, reach);
        if reach < dedup.span && !dedup.warned {
            dedup.warned = true;
            let (limit, configured) = (self.config.window_bytes(), dedup.span);
            warn!(?reach, ?configured, limit, "the deduplication window is shorter for want of memory");
        }
    }
}
