//! Decides whether partitions are read or paused: by what is held in memory, and by what is in trouble.
//!
//! What bounds memory is that partitions are paused while too much is under way (invariant I7 in `lake`); they go on well
//! below that bound, or each poll would turn them on and off. Windows have memory of their own, which all partitions
//! share: pausing would not make them smaller, so they get shorter.
//!
//! Partitions are paused as well while a breaker is not closed: what is read then could go nowhere. The breaker of the
//! broker is closed again from here, by asking whether it is back.

use super::{POLL_FOR, State, Worker};
use anyhow::Context;
use eventlog::LogError;
use std::time::Duration;

/// How long a broker that is in trouble is listened to when asked whether it is back: meanwhile nothing else happens here.
const BACK_WITHIN: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn pause_or_resume(&mut self) -> anyhow::Result<()> {
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

    pub(super) fn held_bytes(&self) -> usize {
        self.buffered_bytes() + self.in_flight.values().map(|flush| flush.bytes).sum::<usize>()
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.partitions.values().map(|owned| owned.buffer.bytes()).sum()
    }

    /// Divides the memory for windows among all partitions, also those that are joining; returns what one may take.
    pub(super) fn share_window_memory(&mut self) -> usize {
        let limit = self.config.window_bytes() / (self.partitions.len() + self.joining.len()).max(1);
        let windows = self.partitions.values_mut().filter_map(|owned| owned.window.as_mut());
        windows.for_each(|window| window.set_limit(limit));
        limit
    }

    /// Begins to ask the broker whether it is back, unless the error is one that no retry cures. Polling goes on, which
    /// asks nothing of a broker: the log's own client does, with a backoff of its own.
    pub(super) fn broker_failed(&mut self, err: LogError, what: &'static str) -> anyhow::Result<()> {
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

    pub(super) fn question_broker(&mut self) -> anyhow::Result<()> {
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
}
