//! Decides whether the gateway can take on more work now, and how long to stay away if not.
//!
//! Nobody waits here. When the bytes in flight are spent or the log is down, a device is told so at once and comes
//! back later; a queue would only turn a short outage into a long one.

use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use tracing::{error, info, warn};

/// The bytes that all requests under way may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    /// What a request may hold while it is the only one, though it be more than `max`: else one that is allowed, but needs
    /// more than it brings (a window to decompress it, a translated copy), would be told to come back for ever.
    alone: usize,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
    /// It grows as long as all together hold no more than this.
    ceiling: usize,
}

/// The budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent;

impl Budget {
    pub(crate) fn new(max: usize, alone: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), max, alone })
    }

    /// An empty part of the budget, to be grown as bytes arrive, as long as all together hold no more than `ceiling`.
    pub(crate) fn reserve_below(self: &Arc<Budget>, ceiling: usize) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0, ceiling: ceiling.min(self.max) }
    }

    /// The same, as long as anything of the budget is left.
    pub(crate) fn reserve(self: &Arc<Budget>) -> Reservation {
        self.reserve_below(self.max)
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// Takes `bytes` more, or nothing.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Spent> {
        let fits = |used: usize| {
            let is_alone = used == self.bytes;
            used.checked_add(bytes).filter(|sum| *sum <= self.ceiling || (is_alone && *sum <= self.budget.alone))
        };
        self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| Spent)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` back before the rest.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Remembers since when the log has been failing: the longer, the later devices should ask again.
#[derive(Debug)]
pub(crate) struct Outage {
    /// Microseconds since the epoch; 0 while the log is well.
    since: AtomicI64,
    /// When the operator was last told.
    told: AtomicI64,
    /// Moves on with every answer, to spread devices over time.
    turn: AtomicUsize,
}

/// Shortest and longest `Retry-After` of a 503, in seconds, before the spread.
const RETRY_AFTER: (i64, i64) = (1, 30);
/// A log that fails and recovers by turns is not worth two lines per request.
const TELL_EVERY_MICROS: i64 = 1_000_000;

impl Outage {
    pub(crate) fn new() -> Outage {
        Outage { since: AtomicI64::new(0), told: AtomicI64::new(0), turn: AtomicUsize::new(0) }
    }

    /// Notes that the log took events.
    pub(crate) fn is_over(&self, clock: &Clock) {
        // A load costs nothing when nothing changes; a store would move the cache line between cores.
        if self.since.load(Ordering::Relaxed) == 0 {
            return;
        }
        let since = self.since.swap(0, Ordering::Relaxed);
        if since != 0 && self.may_tell(clock) {
            info!(seconds = (clock.micros() - since) / 1_000_000, "log takes events again");
        }
    }

    /// Notes a failure of the log. The answer is about as long again as it has been failing, and up to half more, so
    /// that devices do not all come back at the same moment.
    pub(crate) fn goes_on(&self, clock: &Clock, error: &dyn std::fmt::Display, needs_a_human: bool) -> Duration {
        let now = clock.micros();
        let since = match self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) if self.may_tell(clock) => {
                if needs_a_human {
                    error!(%error, "log refuses events");
                } else {
                    warn!(%error, "log does not take events");
                }
                now
            }
            Ok(_) => now,
            Err(since) => since,
        };
        let wait = ((now - since) / 1_000_000).clamp(RETRY_AFTER.0, RETRY_AFTER.1);
        Duration::from_secs((wait + self.spread(wait / 2 + 1)) as u64)
    }

    /// How long to stay away when the bytes in flight are spent: requests take milliseconds, so not long.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_secs(1 + self.spread(2) as u64)
    }

    fn spread(&self, width: i64) -> i64 {
        self.turn.fetch_add(1, Ordering::Relaxed) as i64 % width
    }

    fn may_tell(&self, clock: &Clock) -> bool {
        let (now, told) = (clock.micros(), self.told.load(Ordering::Relaxed));
        now - told >= TELL_EVERY_MICROS
            && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back_when_requests_end() {
        let budget = Budget::new(100, 0);
        let (mut a, mut b) = (budget.reserve(), budget.reserve());
        assert_eq!(a.grow(60), Ok(()));
        assert_eq!(b.grow(41), Err(Spent));
        assert_eq!(b.grow(usize::MAX), Err(Spent));
        assert_eq!(b.grow(40), Ok(()));
        assert_eq!(budget.used(), 100);
        a.shrink(20);
        assert_eq!(budget.used(), 80);
        drop(a);
        assert_eq!(budget.used(), 40);
        b.shrink(usize::MAX);
        assert_eq!(budget.used(), 0);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_ceiling_leaves_the_rest_to_others() {
        let budget = Budget::new(100, 0);
        let (mut low, mut high) = (budget.reserve_below(50), budget.reserve_below(usize::MAX));
        assert_eq!(low.grow(50), Ok(()));
        assert_eq!(low.grow(1), Err(Spent));
        assert_eq!(high.grow(50), Ok(()));
        assert_eq!(high.grow(1), Err(Spent));
        drop(high);
        assert_eq!(budget.used(), 50);
    }

    #[test]
    fn who_is_alone_may_hold_more_than_all_together_and_then_nobody_else_gets_anything() {
        let budget = Budget::new(100, 150);
        let (mut low, mut other) = (budget.reserve_below(50), budget.reserve());
        assert_eq!(low.grow(150), Ok(()));
        assert_eq!((low.grow(1), other.grow(1)), (Err(Spent), Err(Spent)));
        assert_eq!(low.grow(usize::MAX), Err(Spent));
        drop(low);
        let mut low = budget.reserve_below(50);
        assert_eq!((other.grow(1), low.grow(50), low.grow(49)), (Ok(()), Err(Spent), Ok(())));
        drop(other);
        assert_eq!(low.grow(101), Ok(()));
    }

    #[test]
    fn devices_stay_away_longer_the_longer_the_log_fails_and_not_all_equally_long() {
        let time = FakeRelativeClock::default();
        let clock = Clock::manual(time.clone(), 1_000_000);
        let outage = Outage::new();
        let goes_on = || outage.goes_on(&clock, &std::fmt::Error, false);
        assert_eq!(goes_on().as_secs(), 1);
        time.advance(Duration::from_secs(10));
        let waits: Vec<u64> = (0..12).map(|_| goes_on().as_secs()).collect();
        assert!(waits.iter().all(|wait| (10..=15).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]));
        time.advance(Duration::from_secs(3600));
        assert!(goes_on().as_secs() <= 45);
        outage.is_over(&clock);
        assert_eq!(goes_on().as_secs(), 1);
    }
}
