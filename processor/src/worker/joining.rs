//! From an assignment to the first record: the table says where to read on and what was seen before, the log what it
//! still holds.
//!
//! The table is asked by a task and not waited for. Its answer stays aside until the log has told its bounds, which may
//! be later when the broker is away. An assignment that was taken back meanwhile is not answered.
//!
//! What the log no longer holds is skipped and counted, for nothing brings it back; a log that ends before the table's
//! offset is another log, and nothing is read of it. A partition of which a flush was rejected starts again the same way.

use super::{BOUNDS_WITHIN, Message, Owned, State, Worker};
use crate::buffer::PartitionBuffer;
use crate::metrics;
use crate::window::Window;
use anyhow::{Context, bail};
use eventlog::{LogError, Position};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

/// Where to read on, and what was seen before.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) partition: i32,
    /// `None` for a partition that the table does not know.
    position: Option<i64>,
    window: Option<Window>,
}

impl Worker {
    pub(super) fn join(&mut self, runtime: &Handle, partitions: Vec<i32>) {
        info!(?partitions, "partitions assigned");
        self.joining.extend(&partitions);
        let ended = self.rebuilding();
        // The assignment before has its answer, or is void.
        self.joined = Some(ended.clone().drop_guard());
        self.ask_positions(runtime, partitions, ended);
    }

    /// A token that ends with the worker at the latest.
    pub(super) fn rebuilding(&self) -> CancellationToken {
        self.dedup.as_ref().map_or_else(CancellationToken::new, |dedup| dedup.ended.token().child_token())
    }

    /// Asks the table where to read on, and reads from it what was seen before.
    pub(super) fn ask_positions(&mut self, runtime: &Handle, partitions: Vec<i32>, ended: CancellationToken) {
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

    /// Starts reading where the table says, as soon as the log has told what it still holds. Partitions that were
    /// assigned together start together: the log takes one answer to an assignment.
    pub(super) fn start_partitions(&mut self) -> anyhow::Result<()> {
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

    pub(super) fn skip_what_is_gone(&mut self, partition: i32) -> anyhow::Result<()> {
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
}
