//! Buffers become flushes, and what became of each is acted on.
//!
//! Few are under way at a time: more would hold memory and make nothing faster. After a rejection the rows that are
//! buffered of its partitions are dropped, and the table is asked where to read on once no other flush of theirs is under
//! way, for that may still move the table.

use super::{Message, State, Worker};
use crate::buffer::Taken;
use crate::committer::Verdict;
use crate::failure::in_one_line;
use crate::flush::Flushed;
use anyhow::bail;
use eventlog::Position;
use lake::OffsetRange;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Flushes that hold rows at a time: one is encoded while the other is stored.
const MAX_UPLOADING: usize = 2;
/// Flushes under way at a time, those included that only wait for a commit, of which there may be one a second.
const MAX_IN_FLIGHT: usize = 8;

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) partitions: Vec<i32>,
    /// Rows in memory; none once they are stored.
    pub(super) bytes: usize,
    pub(super) uploaded: bool,
}

impl Worker {
    pub(super) fn may_flush(&self) -> bool {
        let uploading = self.in_flight.values().filter(|flush| !flush.uploaded).count();
        uploading < MAX_UPLOADING && self.in_flight.len() < MAX_IN_FLIGHT
    }

    pub(super) fn flush_if_due(&mut self, runtime: &Handle) {
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
    pub(super) fn flush(&mut self, runtime: &Handle, chosen: impl Fn(i32) -> bool) {
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

    pub(super) fn flushed(&mut self, runtime: &Handle, flushed: Flushed) -> anyhow::Result<()> {
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
}
