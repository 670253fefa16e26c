//! Decides whether a dataset's events may go to the log now, by what has become of its appends so far.
//!
//! A log that is gone often says nothing: a frozen broker, a full disk, a network that swallows packets. What tells is
//! that appends stay unanswered. So the age of the oldest one decides; an append that was made before another that
//! succeeded tells nothing about the log and does not count. While it is open the appends under way are the probe: the
//! first one to be answered well closes it. If appends fail instead, and none is under way, one request at a time is let
//! through to find out.
//!
//! [`judge`] is pure. Who only asks takes no lock; whoever appends takes one twice, for a few instructions.

use lake::dataset::Priority;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the log may be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It takes events.
    Closed,
    /// It is slow, and others go first.
    Slow,
    /// It is left alone, but for this request, which finds out whether it is back.
    Probe,
    /// It is left alone.
    Open,
}

/// What is known of the appends of a dataset. Times are those of a clock that never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Since when the oldest append that counts has been under way.
    pub(crate) waiting_since: Option<Duration>,
    /// Appends that failed since the last one that did not.
    pub(crate) failures: u32,
    /// When the last probe was let through.
    pub(crate) probed: Option<Duration>,
}

/// So many failures in a row open the breaker.
const FAILURES: u32 = 5;
/// A probe that comes to nothing is followed by the next after this part of the threshold.
const PROBES: u32 = 4;

/// What follows from the facts for a request that comes now. `after`: an append may take so long.
pub(crate) fn judge(facts: &Facts, now: Duration, after: Duration, priority: Priority) -> Verdict {
    let waited = facts.waited(now);
    if waited >= after || facts.failures >= FAILURES {
        let probe_is_due = facts.probed.is_none_or(|probed| now.saturating_sub(probed) >= after / PROBES);
        return if facts.waiting_since.is_none() && probe_is_due { Verdict::Probe } else { Verdict::Open };
    }
    let patience = match priority {
        Priority::Low => after / 2,
        Priority::Normal => after * 3 / 4,
        Priority::High => after,
    };
    if waited >= patience { Verdict::Slow } else { Verdict::Closed }
}

impl Facts {
    /// How long the oldest append that counts has been under way.
    pub(crate) fn waited(&self, now: Duration) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// The appends of one dataset, and what they tell about the log.
#[derive(Debug)]
pub(crate) struct Breaker {
    after: Duration,
    appends: Mutex<Appends>,
    // What follows from `appends`, for who only asks: nanoseconds, NEVER for none.
    waiting_since: AtomicU64,
    succeeded: AtomicU64,
    probed: AtomicU64,
    failures: AtomicU32,
}

const NEVER: u64 = u64::MAX;

/// An append that is under way. One that is dropped without a word has failed.
#[derive(Debug)]
pub(crate) struct UnderWay {
    breaker: Arc<Breaker>,
    number: u64,
    told: bool,
}

impl Breaker {
    pub(crate) fn new(after: Duration) -> Arc<Breaker> {
        Arc::new(Breaker {
            after,
            appends: Mutex::new(Appends::default()),
            waiting_since: AtomicU64::new(NEVER),
            succeeded: AtomicU64::new(NEVER),
            probed: AtomicU64::new(NEVER),
            failures: AtomicU32::new(0),
        })
    }

    /// An append begins.
    pub(crate) fn begin(self: &Arc<Breaker>, now: Duration) -> UnderWay {
        let mut appends = self.lock();
        let number = appends.begin(now);
        self.publish(&appends);
        UnderWay { breaker: Arc::clone(self), number, told: false }
    }

    /// May this request go to the log? A probe is given to one of all that ask.
    pub(crate) fn verdict(&self, now: Duration, priority: Priority) -> Verdict {
        self.claim(now, judge(&self.facts(), now, self.after, priority))
    }

    /// The same when others have told that the log hangs.
    pub(crate) fn verdict_by_others(&self, now: Duration) -> Verdict {
        let facts = Facts { failures: FAILURES, ..self.facts() };
        self.claim(now, judge(&facts, now, self.after, Priority::High))
    }

    pub(crate) fn is_open(&self, now: Duration) -> bool {
        matches!(judge(&self.facts(), now, self.after, Priority::High), Verdict::Open | Verdict::Probe)
    }

    /// Whether an append was answered well lately.
    pub(crate) fn is_proven(&self, now: Duration) -> bool {
        time(self.succeeded.load(Ordering::Relaxed)).is_some_and(|at| now.saturating_sub(at) < self.after)
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            waiting_since: time(self.waiting_since.load(Ordering::Relaxed)),
            failures: self.failures.load(Ordering::Relaxed),
            probed: time(self.probed.load(Ordering::Relaxed)),
        }
    }

    fn claim(&self, now: Duration, verdict: Verdict) -> Verdict {
        if verdict != Verdict::Probe {
            return verdict;
        }
        let probed = self.probed.load(Ordering::Relaxed);
        let is_due = time(probed).is_none_or(|probed| now.saturating_sub(probed) >= self.after / PROBES);
        let claimed = self.probed.compare_exchange(probed, nanos(now), Ordering::Relaxed, Ordering::Relaxed);
        if is_due && claimed.is_ok() { Verdict::Probe } else { Verdict::Open }
    }

    fn publish(&self, appends: &Appends) {
        let since = appends.oldest().map_or(NEVER, nanos);
        // A load costs nothing when nothing changes; a store would move the cache line between cores.
        if self.waiting_since.load(Ordering::Relaxed) != since {
            self.waiting_since.store(since, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Appends> {
        self.appends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// The log has taken records.
    pub(crate) fn succeeded(mut self, now: Duration) {
        self.told = true;
        let mut appends = self.breaker.lock();
        appends.succeeded(self.number);
        self.breaker.publish(&appends);
        drop(appends);
        self.breaker.succeeded.store(nanos(now), Ordering::Relaxed);
        if self.breaker.failures.load(Ordering::Relaxed) != 0 {
            self.breaker.failures.store(0, Ordering::Relaxed);
        }
    }

    /// The log has taken nothing, and said so at once or after long.
    pub(crate) fn failed(mut self, now: Duration) {
        self.told = true;
        self.forget(|begun| if now.saturating_sub(begun) >= self.breaker.after { FAILURES } else { 1 });
    }

    /// It tells nothing about the log.
    pub(crate) fn inconclusive(mut self) {
        self.told = true;
        self.forget(|_| 0);
    }

    /// `weight`: how many failures it counts as, having begun then.
    fn forget(&self, weight: impl FnOnce(Duration) -> u32) {
        let mut appends = self.breaker.lock();
        let begun = appends.ended(self.number);
        self.breaker.publish(&appends);
        drop(appends);
        let weight = begun.map_or(0, weight);
        if weight > 0 {
            let more = |failures: u32| failures.checked_add(weight);
            let _ = self.breaker.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.told {
            self.forget(|_| 1);
        }
    }
}

/// Appends under way, oldest first, without those made before one that succeeded. They end in almost the order in which
/// they begin, so both ends of the queue are short.
#[derive(Debug, Default)]
struct Appends {
    /// Number of the first one in the queue.
    first: u64,
    /// When each began; `None` once it has ended. The first is never `None`.
    begun: VecDeque<Option<Duration>>,
}

impl Appends {
    fn begin(&mut self, now: Duration) -> u64 {
        self.begun.push_back(Some(now));
        self.first + self.begun.len() as u64 - 1
    }

    fn succeeded(&mut self, number: u64) {
        while self.first <= number && self.begun.pop_front().is_some() {
            self.first += 1;
        }
        self.trim();
    }

    /// When it began, if it still counts.
    fn ended(&mut self, number: u64) -> Option<Duration> {
        let place = number.checked_sub(self.first)?;
        let begun = self.begun.get_mut(place as usize)?.take();
        self.trim();
        begun
    }

    fn trim(&mut self) {
        while let Some(None) = self.begun.front() {
            self.begun.pop_front();
            self.first += 1;
        }
    }

    fn oldest(&self) -> Option<Duration> {
        self.begun.front().copied().flatten()
    }
}

/// Never [`NEVER`]: that is in 584 years.
fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

fn time(nanos: u64) -> Option<Duration> {
    (nanos != NEVER).then(|| Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests;
