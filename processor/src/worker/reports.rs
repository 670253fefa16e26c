//! Tells others how far the worker is: probes, metrics, and the consumer group, where lag tools look.
//!
//! Nothing here decides anything; in particular, what the group is told is a hint and never read (invariant I2 in `lake`).

use super::{Owned, State, Worker};
use crate::metrics;
use crate::window::Window;
use eventlog::Position;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How often the group offsets are published again: the process that committed the table may have died before it could,
/// and Kafka forgets what it is told in the middle of a rebalance.
const HINT_EVERY: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) fn report(&mut self) {
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

    /// Says again how far the table is, so that a hint that got lost is missed for a while and not until the next event.
    pub(super) fn repeat_hints(&mut self) {
        if self.hinted.elapsed() < HINT_EVERY {
            return;
        }
        self.hinted = Instant::now();
        let ours = self.partitions.iter().filter(|(_, owned)| owned.state == State::Reading);
        let hints: Vec<Position> =
            ours.map(|(partition, owned)| Position { partition: *partition, offset: owned.committed }).collect();
        self.hint(&hints);
    }

    pub(super) fn hint(&mut self, hints: &[Position]) {
        if let Err(err) = self.consumer.commit_hint(hints) {
            // Only lag tools see it, and the next hint repairs it.
            debug!(error = %err, "group offsets were not published");
        }
    }
}
