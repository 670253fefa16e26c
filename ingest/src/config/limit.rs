//! One rate limit: a rate with a burst, of events, of bytes, or of both.

use super::ConfigError;
use bytesize::ByteSize;
use governor::Quota;
use serde::Deserialize;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// `{ events_per_second = 100, burst = 1000, bytes_per_second = "1MiB", burst_bytes = "8MiB" }`, or one half of it.
/// Without a burst, one second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "LimitSpec")]
pub struct Limit {
    pub(crate) events: Option<Rate>,
    pub(crate) bytes: Option<Rate>,
}

/// How much may come a second, and at once.
///
/// governor counts cells, of which a burst may have 2^32, and waits for one a whole number of nanoseconds. An event is a
/// cell; for bytes the cell is as large as it must be for the burst to fit, and for the rate to be met within 3 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    burst: NonZeroU64,
    cell: NonZeroU64,
    /// The time that one cell takes to be allowed again.
    period: Duration,
}

/// The longest time in which a burst may fill up again: beyond it nanoseconds would overflow.
const MAX_REFILL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The shortest period of a cell of bytes: half a nanosecond of it is 3 %.
const MIN_PERIOD: Duration = Duration::from_nanos(16);
const MAX_BYTES: ByteSize = ByteSize::tib(1);

impl Limit {
    /// A limit of `events_per_second`, which may be a fraction, with room for `burst` events at once.
    pub fn new(events_per_second: f64, burst: u32) -> Result<Limit, ConfigError> {
        Ok(Limit { events: Some(Rate::of_events(events_per_second, burst)?), bytes: None })
    }

    /// A limit of bytes alone.
    pub fn of_bytes(bytes_per_second: ByteSize, burst_bytes: ByteSize) -> Result<Limit, ConfigError> {
        Ok(Limit { events: None, bytes: Some(Rate::of_bytes(bytes_per_second, burst_bytes)?) })
    }

    /// The same limit with one of bytes beside it.
    pub fn and_bytes(self, bytes_per_second: ByteSize, burst_bytes: ByteSize) -> Result<Limit, ConfigError> {
        Ok(Limit { events: self.events, ..Limit::of_bytes(bytes_per_second, burst_bytes)? })
    }
}

impl Rate {
    fn of_events(per_second: f64, burst: u32) -> Result<Rate, ConfigError> {
        if !(per_second > 0.0 && per_second <= 1e9) {
            return Err(ConfigError { field: "events_per_second", problem: "must be above 0 and at most 1000000000" });
        }
        let Some(burst) = NonZeroU32::new(burst) else {
            return Err(ConfigError { field: "burst", problem: "must be at least 1" });
        };
        let problem = ConfigError { field: "burst", problem: "must fill up within 30 days at `events_per_second`" };
        Rate::new(per_second, burst.into(), NonZeroU64::MIN).ok_or(problem)
    }

    fn of_bytes(per_second: ByteSize, burst: ByteSize) -> Result<Rate, ConfigError> {
        if !(1..=MAX_BYTES.as_u64()).contains(&per_second.as_u64()) {
            return Err(ConfigError { field: "bytes_per_second", problem: "must be between 1 byte and 1 TiB" });
        }
        let Some(bytes) = NonZeroU64::new(burst.as_u64()).filter(|_| burst <= MAX_BYTES) else {
            return Err(ConfigError { field: "burst_bytes", problem: "must be between 1 byte and 1 TiB" });
        };
        let (per_second, burst) = (per_second.as_u64() as f64, bytes.get());
        let for_rate = (per_second * MIN_PERIOD.as_secs_f64()).ceil() as u64;
        let cell = for_rate.max(burst.div_ceil(u32::MAX.into()));
        let cell = NonZeroU64::new(cell).unwrap_or(NonZeroU64::MIN);
        let problem =
            ConfigError { field: "burst_bytes", problem: "must fill up within 30 days at `bytes_per_second`" };
        Rate::new(per_second, bytes, cell).ok_or(problem)
    }

    /// `None` if it would take too long to fill up.
    fn new(per_second: f64, burst: NonZeroU64, cell: NonZeroU64) -> Option<Rate> {
        if burst.get().next_multiple_of(cell.get()) as f64 / per_second > MAX_REFILL.as_secs_f64() {
            return None;
        }
        let period = Duration::from_secs_f64(cell.get() as f64 / per_second).max(Duration::from_nanos(1));
        Some(Rate { burst, cell, period })
    }

    /// What may come at once.
    pub(crate) fn burst(&self) -> NonZeroU64 {
        self.burst
    }

    /// As many cells as hold `amount`, at most those of a burst.
    pub(crate) fn cells(&self, amount: u64) -> NonZeroU32 {
        let cells = amount.min(self.burst.get()).div_ceil(self.cell.get());
        // `of_bytes` chose the cell so that a burst is at most as many as these.
        NonZeroU32::new(u32::try_from(cells).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
    }

    /// What surely comes back in `wait`, with the begun cell.
    pub(crate) fn amount_of(&self, wait: Duration) -> u64 {
        let cells = wait.as_nanos().div_ceil(self.period.as_nanos()).max(1);
        u64::try_from(cells).unwrap_or(u64::MAX).saturating_mul(self.cell.get())
    }

    /// The time in which `amount`, at most a burst, comes back.
    pub(crate) fn time_of(&self, amount: u64) -> Duration {
        self.period * self.cells(amount).get()
    }

    /// The time in which a burst fills up again.
    pub(crate) fn refill(&self) -> Duration {
        self.time_of(self.burst.get())
    }

    pub(crate) fn quota(&self) -> Quota {
        let quota = Quota::with_period(self.period).expect("a period is at least 1 ns");
        quota.allow_burst(self.cells(self.burst.get()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitSpec {
    events_per_second: Option<f64>,
    burst: Option<u32>,
    bytes_per_second: Option<ByteSize>,
    burst_bytes: Option<ByteSize>,
}

impl TryFrom<LimitSpec> for Limit {
    type Error = ConfigError;

    fn try_from(spec: LimitSpec) -> Result<Limit, ConfigError> {
        let events = match (spec.events_per_second, spec.burst) {
            // `as` saturates, and `of_events` refuses what is left.
            (Some(rate), burst) => Some(Rate::of_events(rate, burst.unwrap_or(rate.ceil() as u32))?),
            (None, Some(_)) => return Err(ConfigError { field: "burst", problem: "needs `events_per_second`" }),
            (None, None) => None,
        };
        let bytes = match (spec.bytes_per_second, spec.burst_bytes) {
            (Some(rate), burst) => Some(Rate::of_bytes(rate, burst.unwrap_or(rate))?),
            (None, Some(_)) => return Err(ConfigError { field: "burst_bytes", problem: "needs `bytes_per_second`" }),
            (None, None) if events.is_none() => {
                return Err(ConfigError {
                    field: "events_per_second",
                    problem: "is missing, and so is `bytes_per_second`: a limit needs one of them",
                });
            }
            (None, None) => None,
        };
        Ok(Limit { events, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Limit {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_burst_defaults_to_one_second_and_at_least_one_event() {
        let burst = |json| read(json).events.unwrap().burst().get();
        assert_eq!(burst(r#"{"events_per_second":2.5}"#), 3);
        assert_eq!(burst(r#"{"events_per_second":0.1}"#), 1);
        assert_eq!(read(r#"{"events_per_second":0.1}"#).events.unwrap().refill(), Duration::from_secs(10));
        assert_eq!(read(r#"{"bytes_per_second":"3KiB"}"#).bytes.unwrap().burst().get(), 3 * 1024);
    }

    #[test]
    fn events_and_bytes_may_stand_alone_or_together() {
        let (events, bytes) = (Limit::new(5.0, 10).unwrap(), Limit::of_bytes(ByteSize(7), ByteSize::kib(1)).unwrap());
        assert_eq!(read(r#"{"events_per_second":5,"burst":10}"#), events);
        assert_eq!(read(r#"{"bytes_per_second":7,"burst_bytes":"1KiB"}"#), bytes);
        let both = r#"{"events_per_second":5,"burst":10,"bytes_per_second":7,"burst_bytes":"1KiB"}"#;
        assert_eq!(read(both), events.and_bytes(ByteSize(7), ByteSize::kib(1)).unwrap());
    }

    #[test]
    fn refuses_limits_that_cannot_work_and_says_why() {
        for (json, word) in [
            (r#"{}"#, "needs one of them"),
            (r#"{"events_per_second":0}"#, "above 0"),
            (r#"{"events_per_second":-1}"#, "above 0"),
            (r#"{"events_per_second":10,"burst":0}"#, "at least 1"),
            (r#"{"events_per_second":0.000001,"burst":4000000}"#, "30 days"),
            (r#"{"burst":10}"#, "needs `events_per_second`"),
            (r#"{"events_per_second":10,"brust":5}"#, "brust"),
            (r#"{"bytes_per_second":0}"#, "1 byte"),
            (r#"{"bytes_per_second":"2TiB"}"#, "1 TiB"),
            (r#"{"bytes_per_second":10,"burst_bytes":0}"#, "1 byte"),
            (r#"{"bytes_per_second":10,"burst_bytes":"2TiB"}"#, "1 TiB"),
            (r#"{"bytes_per_second":10,"burst_bytes":"1GiB"}"#, "30 days"),
            (r#"{"events_per_second":1,"burst_bytes":"1GiB"}"#, "needs `bytes_per_second`"),
        ] {
            let problem = serde_json::from_str::<Limit>(json).unwrap_err().to_string();
            assert!(problem.contains(word), "{json}: {problem}");
        }
    }

    #[test]
    fn the_extremes_fit_into_cells() {
        let tib = ByteSize::tib(1);
        for (rate, burst) in [(tib, tib), (tib, ByteSize(1)), (ByteSize::mib(1), tib), (ByteSize(1), ByteSize(1))] {
            let bytes = Limit::of_bytes(rate, burst).unwrap().bytes.unwrap();
            assert!(bytes.cells(u64::MAX) == bytes.cells(burst.as_u64()), "{bytes:?}");
            assert!(bytes.quota().burst_size().get() as u64 * bytes.cell.get() >= burst.as_u64(), "{bytes:?}");
        }
        let four_gib = Limit::of_bytes(ByteSize::mib(1), ByteSize(u32::MAX.into())).unwrap().bytes.unwrap();
        assert_eq!((four_gib.cell.get(), four_gib.cells(u64::MAX)), (1, NonZeroU32::MAX));
    }

    proptest! {
        #[test]
        fn cells_of_bytes_keep_the_rate_and_hold_every_amount(
            rate in prop_oneof![1u64..10_000, 1u64..1 << 40], seconds in 0.0f64..1e6, amount: u64,
        ) {
            let burst = ((rate as f64 * seconds) as u64).clamp(1, 1 << 40);
            let bytes = Limit::of_bytes(ByteSize(rate), ByteSize(burst)).unwrap().bytes.unwrap();
            let kept = bytes.cell.get() as f64 / bytes.period.as_secs_f64() / rate as f64;
            prop_assert!((0.968..1.033).contains(&kept), "{} of the rate", kept);
            let amount = amount % burst + 1;
            let cells = u64::from(bytes.cells(amount).get());
            prop_assert!(cells * bytes.cell.get() >= amount && (cells - 1) * bytes.cell.get() < amount);
        }
    }
}
