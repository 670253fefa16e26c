//! What time it is, for rate limits (monotonic) and for events (microseconds since the epoch).
//!
//! One place, so that a test can let an hour pass without waiting.

use governor::clock::FakeRelativeClock;
use governor::nanos::Nanos;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The gateway's clock.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { start: Instant },
    Manual { clock: FakeRelativeClock, start_micros: i64 },
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock(Source::System { start: Instant::now() })
    }

    /// Time passes only when a test advances `clock`; it starts at `start_micros` since the epoch.
    pub fn manual(clock: FakeRelativeClock, start_micros: i64) -> Clock {
        Clock(Source::Manual { clock, start_micros })
    }

    /// Microseconds since the epoch, UTC.
    pub(crate) fn micros(&self) -> i64 {
        match &self.0 {
            Source::System { .. } => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_micros() as i64,
                Err(before) => -(before.duration().as_micros() as i64),
            },
            Source::Manual { clock, start_micros } => {
                start_micros + (governor::clock::Clock::now(clock).as_u64() / 1_000) as i64
            }
        }
    }
}

impl Clock {
    /// Time since some moment, which never goes back.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(governor::clock::Clock::now(self).as_u64())
    }
}

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match &self.0 {
            Source::System { start } => start.elapsed().into(),
            Source::Manual { clock, .. } => clock.now(),
        }
    }
}
