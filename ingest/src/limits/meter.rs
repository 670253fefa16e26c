//! Measures one rate for any number of keys, by governor's GCRA over a table of fixed size.

use super::{Exceeded, Policy, TooMuch};
use crate::clock::Clock;
use crate::config::Rate;
use crate::key_table::{KeyTable, Place};
use crate::metrics;
use ::metrics::Counter;
use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use std::hash::Hash;

/// One rate, of events or of bytes.
pub(crate) struct Meter {
    policy: Policy,
    rate: Rate,
    table: KeyTable,
    limiter: RateLimiter<Place, KeyTable, Clock, NoOpMiddleware<Nanos>>,
    clock: Clock,
    refused: Counter,
}

/// An amount that somebody wants to pass through a meter.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    meter: &'a Meter,
    place: Place,
    amount: u64,
    /// What must be left for others after it, as far as the burst is large enough for both.
    reserve: u64,
}

impl Meter {
    pub(crate) fn new(policy: Policy, rate: Rate, keys: u32, clock: &Clock) -> Meter {
        let table = KeyTable::new(keys);
        let limiter = RateLimiter::new(rate.quota(), table.clone(), clock.clone());
        Meter { policy, rate, table, limiter, clock: clock.clone(), refused: metrics::limited(policy.as_str()) }
    }

    pub(crate) fn ask(&self, key: impl Hash, amount: u64) -> Ask<'_> {
        Ask { meter: self, place: self.table.place(key), amount, reserve: 0 }
    }

    /// Publishes how full the table is.
    pub(crate) fn measure(&self) {
        metrics::limiter_busy(self.policy.as_str(), self.table.busy_ratio(self.clock.now()));
    }
}

impl Ask<'_> {
    /// The same, if it leaves this part of a burst to others.
    pub(crate) fn leaving(self, part: impl Fn(u64) -> u64) -> Self {
        Ask { reserve: part(self.meter.rate.burst().get()), ..self }
    }

    /// Whether it must leave something to others.
    pub(crate) fn leaves_any(&self) -> bool {
        self.reserve > 0
    }

    /// Whether it is more than ever passes at once.
    pub(crate) fn too_much(&self) -> Option<TooMuch> {
        let Meter { policy, rate, .. } = self.meter;
        (self.amount > rate.burst().get()).then_some(TooMuch { policy: *policy, largest: rate.burst() })
    }

    /// Whether it would pass now; nothing is counted.
    pub(crate) fn would_pass(&self) -> Result<(), Exceeded> {
        self.check(self.place.only_asked(), self.amount.saturating_add(self.reserve))
    }

    /// What it is to wait for when nothing is left.
    pub(crate) fn anew(&self) -> Exceeded {
        let Meter { policy, rate, .. } = self.meter;
        Exceeded { policy: *policy, rate: *rate, remaining: 0, wait: rate.time_of(self.amount) }
    }

    /// Counts it if it passes now.
    pub(crate) fn pass(&self) -> Result<(), Exceeded> {
        self.check(self.place, self.amount)
    }

    /// Counts events that are refused.
    pub(crate) fn refused(&self, events: u64) {
        self.meter.refused.increment(events);
    }

    pub(crate) fn policy(&self) -> Policy {
        self.meter.policy
    }

    fn check(&self, place: Place, amount: u64) -> Result<(), Exceeded> {
        let Meter { policy, rate, limiter, clock, .. } = self.meter;
        // `cells` are never more than a burst, so the outer result is always good.
        let Ok(Err(until)) = limiter.check_key_n(&place, rate.cells(amount)) else { return Ok(()) };
        let wait = until.wait_time_from(clock.now());
        let remaining = amount.min(rate.burst().get()).saturating_sub(rate.amount_of(wait));
        Err(Exceeded { policy: *policy, rate: *rate, remaining: remaining.saturating_sub(self.reserve), wait })
    }
}
