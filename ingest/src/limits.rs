//! Decides whether events may come now, by governor (GCRA): per device, per address, and for the gateway as a whole.
//!
//! - The address and the global limit count a request's events at once and refuse it whole, before its events are
//!   parsed. What the address limit has counted stays counted when the global limit then refuses.
//! - The device limit counts event by event, for one request may carry events of many devices (see `batch`).
//! - A request with more events than a burst holds can never pass, so it is told the largest size that can, instead of
//!   a time to wait.
//!
//! Memory is fixed at start (see `key_table`).

use crate::clock::Clock;
use crate::config::{self, Limit};
use crate::key_table::KeyTable;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

/// The rate limits of one gateway.
pub(crate) struct Limits {
    per_device: Option<Keyed>,
    per_ip: Option<Keyed>,
    global: Option<Global>,
    clock: Clock,
}

struct Keyed {
    limit: Limit,
    table: KeyTable,
    limiter: RateLimiter<u64, KeyTable, Clock, NoOpMiddleware<Nanos>>,
}

struct Global {
    limit: Limit,
    limiter: RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>,
}

/// Which limit it was; the name stands in answers and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Device,
    Ip,
    Global,
}

impl Scope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scope::Device => "per_device",
            Scope::Ip => "per_ip",
            Scope::Global => "global",
        }
    }
}

/// A limit that was hit, with all that the answer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exceeded {
    pub(crate) scope: Scope,
    pub(crate) limit: Limit,
    /// Events that would still pass now.
    pub(crate) remaining: u32,
    /// After this long the same events pass, if nobody else takes the room.
    pub(crate) wait: Duration,
}

/// Why a request may not pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Over {
    /// Not now.
    Wait(Exceeded),
    /// Never in this size.
    Never { scope: Scope, largest: NonZeroU32 },
}

impl Limits {
    pub(crate) fn new(config: &config::Limits, clock: &Clock) -> Limits {
        let keyed = |limit: Limit| {
            let table = KeyTable::new(config.max_keys);
            Keyed { limit, limiter: RateLimiter::new(quota(&limit), table.clone(), clock.clone()), table }
        };
        Limits {
            per_device: config.per_device.map(keyed),
            per_ip: config.per_ip.map(keyed),
            global: config
                .global
                .map(|limit| Global { limit, limiter: RateLimiter::direct_with_clock(quota(&limit), clock.clone()) }),
            clock: clock.clone(),
        }
    }

    /// Counts `events` events of one request against the address and the global limit.
    pub(crate) fn request(&self, ip: IpAddr, events: NonZeroU32) -> Result<(), Over> {
        // Both sizes first: a request that can never pass must not use up anybody's rate.
        for (scope, limit) in
            [(Scope::Ip, self.per_ip.as_ref().map(|l| l.limit)), (Scope::Global, self.global.as_ref().map(|l| l.limit))]
        {
            if let Some(limit) = limit.filter(|limit| events > limit.burst()) {
                return Err(Over::Never { scope, largest: limit.burst() });
            }
        }
        if let Some(Keyed { limit, table, limiter }) = &self.per_ip {
            let place = table.place(network(ip));
            if let Ok(Err(until)) = limiter.check_key_n(&place, events) {
                return Err(Over::Wait(self.exceeded(Scope::Ip, *limit, events, &until)));
            }
        }
        if let Some(Global { limit, limiter }) = &self.global
            && let Ok(Err(until)) = limiter.check_n(events)
        {
            return Err(Over::Wait(self.exceeded(Scope::Global, *limit, events, &until)));
        }
        Ok(())
    }

    /// Counts one event against the limit of its device.
    pub(crate) fn device(&self, device_id: &str) -> Result<(), Exceeded> {
        let Some(Keyed { limit, table, limiter }) = &self.per_device else { return Ok(()) };
        limiter
            .check_key(&table.place(device_id))
            .map_err(|until| self.exceeded(Scope::Device, *limit, NonZeroU32::MIN, &until))
    }

    /// Publishes how full the tables are.
    pub(crate) fn measure(&self) {
        for (scope, keyed) in [(Scope::Device, &self.per_device), (Scope::Ip, &self.per_ip)] {
            if let Some(keyed) = keyed {
                let ratio = keyed.table.busy_ratio(self.clock.now());
                crate::metrics::limiter_busy(scope.as_str(), ratio);
            }
        }
    }

    fn exceeded(&self, scope: Scope, limit: Limit, events: NonZeroU32, until: &NotUntil<Nanos>) -> Exceeded {
        let wait = until.wait_time_from(self.clock.now());
        let missing = wait.as_nanos().div_ceil(limit.period().as_nanos());
        let remaining = u128::from(events.get()).saturating_sub(missing.max(1)) as u32;
        Exceeded { scope, limit, remaining, wait }
    }
}

fn quota(limit: &Limit) -> Quota {
    Quota::with_period(limit.period()).expect("a period is at least 1 ns").allow_burst(limit.burst())
}

/// Who counts as one address. A host commonly has a whole IPv6 /64 to itself, so single addresses say nothing.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !(u128::MAX >> 64))),
        v4 => v4,
    }
}
