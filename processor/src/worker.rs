//! The processor's loop: polls the log, fills buffers, hands them to flushes, and acts on what became of them.
//!
//! Runs on a thread of its own and never waits for the store: uploads and commits are tasks whose results come back as
//! messages. Polling goes on whatever happens, so the group never thinks this member dead.
//!
//! A partition is *joining* until the table has said where to read on and what was seen before ([`joining`]), *reading*
//! after that, *resetting* when a flush of it was rejected ([`flushes`]), and *releasing* while its last rows are written
//! out before another member may read it ([`leaving`]). [`pausing`] says whether it is read or waits, and [`reports`]
//! what others hear of it.

mod joining;
mod flushes;
mod leaving;
mod pausing;
mod reports;

use crate::breaker::{Attempts, Breakers};
use crate::buffer::{PartitionBuffer, Pushed};
use crate::committer::Committer;
use crate::config::Config;
use crate::flush::{Flushed, Flusher};
use crate::metrics;
use crate::progress::Progress;
use crate::rebuild::Rebuilder;
use crate::window::Window;
use anyhow::Context;
use eventlog::{Consumer, Input};
use flushes::InFlight;
use joining::Start;
use lake::batch::RowPlan;
use lake::dataset::Dataset;
use lake::table::now_ms;
use leaving::Release;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

/// Longest wait of a poll: how late the loop may notice a finished flush or the time for the next.
const POLL_FOR: Duration = Duration::from_millis(20);
/// How long to ask the log for the bounds of a partition.
const BOUNDS_WITHIN: Duration = Duration::from_secs(5);
/// A partition of which nothing came for so long may have nothing more before its end, which is asked for again then.
const NOTHING_FOR: Duration = Duration::from_secs(1);

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
                    // What was read needs time to be written out.
                    let is_late = Instant::now() + self.config.drain_timeout / 5 > until;
                    if !self.config.drain_to_end || self.caught_up(&mut ends)? || is_late {
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
}
